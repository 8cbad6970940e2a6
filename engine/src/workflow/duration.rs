//! Durations as people write them: `90s`, `6h`, `1h30m`, `500ms`, `2d`.

use std::time::Duration;

/// Longest accepted duration: a year. Longer ones are slips.
const MAX: Duration = Duration::from_secs(365 * 24 * 3600);

/// How a duration is written, for messages.
pub(crate) const HELP: &str =
    "write a number and a unit (ms, s, m, h, d), as in \"90s\", \"6h\" or \"1h30m\"";

/// Reads a duration; `None` when it is none, is zero or is longer than a year.
pub(crate) fn parse(text: &str) -> Option<Duration> {
    let mut rest = text.trim();
    let mut total = Duration::ZERO;
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit())?;
        let number: u64 = rest[..digits].parse().ok()?;
        rest = &rest[digits..];
        let unit = rest.find(|c: char| c.is_ascii_digit()).unwrap_or(rest.len());
        let millis = match &rest[..unit] {
            "ms" => 1,
            "s" => 1_000,
            "m" => 60_000,
            "h" => 3_600_000,
            "d" => 86_400_000,
            _ => return None,
        };
        rest = &rest[unit..];
        total = total.checked_add(Duration::from_millis(number.checked_mul(millis)?))?;
    }
    (total > Duration::ZERO && total <= MAX).then_some(total)
}

/// Writes a duration the same way, to the second.
pub(crate) fn format(duration: Duration) -> String {
    if duration < Duration::from_secs(1) {
        return format!("{}ms", duration.as_millis());
    }
    let mut seconds = duration.as_secs();
    let mut text = String::new();
    for (unit, size) in [("d", 86_400), ("h", 3_600), ("m", 60), ("s", 1)] {
        if seconds >= size {
            text.push_str(&format!("{}{unit}", seconds / size));
            seconds %= size;
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_what_people_write_and_nothing_else() {
        for (text, seconds) in [("90s", 90), ("6h", 21_600), ("1h30m", 5_400), ("2d", 172_800)] {
            assert_eq!(parse(text), Some(Duration::from_secs(seconds)), "{text}");
            assert_eq!(parse(&format(Duration::from_secs(seconds))), parse(text));
        }
        assert_eq!(parse("500ms"), Some(Duration::from_millis(500)));
        for bad in ["", "6", "h", "6 h", "-1s", "1.5h", "0s", "400d", "6hours", "99999999999999999999s"] {
            assert_eq!(parse(bad), None, "{bad}");
        }
    }
}
