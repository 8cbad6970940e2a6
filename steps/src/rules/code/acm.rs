//! Certificates of ACM that an Ingress names, and the Secrets that it has instead.

use super::ingress_groups::annotation;
use crate::rules::engine::{Look, Match};
use crate::rules::inputs::IngressTarget;
use crate::rules::path::key;

/// The rule. Nobody makes the Secrets, so they are named; a certificate without one is for a person.
pub(super) fn certificate(look: &Look<'_>) -> Vec<Match> {
    let path = vec![key("metadata"), key("annotations"), key(annotation("certificate-arn"))];
    let Some(node) = look.object.node.follow(&path) else { return Vec::new() };
    let said = node.text().unwrap_or_default();
    let found = Match::at(path).found(said);
    let arns = said.split(',').map(str::trim).filter(|arn| !arn.is_empty());
    let secrets: Option<Vec<&str>> =
        arns.map(|arn| look.inputs.certificates.get(arn).map(String::as_str)).collect();
    let Some(secrets) = secrets.filter(|secrets| !secrets.is_empty()) else {
        return vec![Match { is_left: true, ..found }];
    };
    let place = match look.inputs.ingress {
        Some(IngressTarget::Gateway) => "in the namespace of its Gateway",
        _ => "in its namespace",
    };
    vec![found.saying(format!("Certificate of ACM; TLS Secret `{}` must be {place}", secrets.join("`, `")))]
}

#[cfg(test)]
mod tests {
    use crate::rules::tests::{found, rewritten};
    use crate::rules::{Finding, Inputs, RuleSet};

    const SHOP: &str = "apiVersion: networking.k8s.io/v1
kind: Ingress
metadata:
  name: shop
  namespace: shop
  annotations:
    alb.ingress.kubernetes.io/scheme: internet-facing
    alb.ingress.kubernetes.io/target-type: ip
    alb.ingress.kubernetes.io/certificate-arn: arn:one
spec:
  ingressClassName: alb
  rules:
    - host: shop.example.com
      http: {paths: [{path: /, pathType: Prefix, backend: {service: {name: shop, port: {number: 80}}}}]}
";

    fn inputs(text: &str) -> Inputs {
        toml::from_str(&format!("application-load-balancer = \"alb/alb\"\n{text}")).unwrap()
    }

    /// What is said of certificates and of what is AWS's own, and what is left of it.
    fn told(text: &str, inputs: &Inputs) -> Vec<(String, bool)> {
        let is_meant = |f: &Finding| ["EKS-NET-005", "EKS-NET-012"].contains(&f.rule.as_str());
        found(text, inputs).into_iter().filter(is_meant).map(|f| (f.message, f.rewritten)).collect()
    }

    #[test]
    fn what_goes_with_the_conversion_is_rewritten_and_the_secret_is_named() {
        let own = "What belongs to the AWS load balancer itself";
        for (target, place) in [("nginx", "its namespace"), ("gateway", "the namespace of its Gateway")] {
            let given =
                inputs(&format!("ingress = \"{target}\"\ncertificates = {{ \"arn:one\" = \"tls\" }}"));
            let said = format!("Certificate of ACM; TLS Secret `tls` must be in {place}");
            assert_eq!(told(SHOP, &given), [(said, true), (own.to_owned(), true)]);
            let done = rewritten(&RuleSet::shipped(), SHOP, &given).unwrap();
            assert_eq!(told(&done, &given), []);

            // It stays as long as a certificate has no Secret, or for another reason.
            let open = inputs(&format!("ingress = \"{target}\""));
            let title = "Certificate of ACM".to_owned();
            assert_eq!(told(SHOP, &open), [(title, false), (own.to_owned(), false)]);
            let internal = SHOP.replace("internet-facing", "internal");
            assert!(told(&internal, &given).iter().all(|(_, rewritten)| !rewritten));
        }
    }

    #[test]
    fn a_certificate_without_a_secret_is_left_also_where_its_ingress_is_converted() {
        // On HTTP alone no certificate is asked for.
        let plain = SHOP.replace("target-type: ip", "listen-ports: '[{\"HTTP\": 80}]'");
        let given = inputs("ingress = \"gateway\"");
        assert!(!rewritten(&RuleSet::shipped(), &plain, &given).unwrap().contains("kind: Ingress"));
        assert_eq!(told(&plain, &given), [("Certificate of ACM".to_owned(), false)]);
    }
}
