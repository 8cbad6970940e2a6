//! Why a backup or a restore failed, in Velero's words.

use super::api::{PodRef, PodVolumeStatus};

/// Reasons that an error quotes; the rest is in Velero's log.
const MAX_REASONS: usize = 10;

/// All that Velero says about a failure, the most telling first.
pub(super) fn failure_reasons(
    validation: Option<&[String]>,
    reason: &str,
    volumes: impl Iterator<Item = (PodRef, String, Option<PodVolumeStatus>)>,
    errors: Vec<String>,
) -> String {
    let mut reasons: Vec<String> = validation.unwrap_or_default().to_vec();
    if !reason.is_empty() {
        reasons.push(reason.to_owned());
    }
    for (pod, volume, status) in volumes {
        if let Some(status) = status.filter(|s| s.phase == "Failed" || s.phase == "Canceled") {
            let path = format!("{}/{}/{volume}", pod.namespace, pod.name);
            reasons.push(format!("volume {path} {}: {}", status.phase.to_lowercase(), status.message));
        }
    }
    reasons.extend(errors);
    let more = reasons.len().saturating_sub(MAX_REASONS);
    reasons.truncate(MAX_REASONS);
    match (reasons.is_empty(), more) {
        (true, _) => "Velero gives no reason".to_owned(),
        (false, 0) => reasons.join("; "),
        (false, more) => format!("{}; and {more} more", reasons.join("; ")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failure_says_why_but_not_everything() {
        let pod = PodRef { namespace: "shop".to_owned(), name: "p".to_owned() };
        let status = PodVolumeStatus {
            phase: "Failed".to_owned(),
            message: "no space".to_owned(),
            ..Default::default()
        };
        let volumes = || [(pod.clone(), "data".to_owned(), Some(status.clone()))].into_iter();
        let reasons = failure_reasons(Some(&["bad".to_owned()]), "lost", volumes(), vec!["x".to_owned()]);
        assert_eq!(reasons, "bad; lost; volume shop/p/data failed: no space; x");
        let many = failure_reasons(None, "", volumes(), vec!["x".to_owned(); 12]);
        assert!(many.ends_with("x; and 3 more"), "{many}");
        assert_eq!(failure_reasons(None, "", std::iter::empty(), Vec::new()), "Velero gives no reason");
    }
}
