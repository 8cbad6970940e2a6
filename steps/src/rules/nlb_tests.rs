//! What a Network Load Balancer does for its pods, and Azure's does otherwise.

use super::network_tests::{done, finding, rules, service};
use super::*;

const PORT: &str = "aws-load-balancer-healthcheck-port";
const ATTRIBUTES: &str = "aws-load-balancer-target-group-attributes";

#[test]
fn a_health_check_asks_a_port_that_azure_can_ask() {
    let probed = |port: &str, ports: &str| {
        let text = service(&[(PORT, port)], "type: LoadBalancer").replace("[{port: 80}]", ports);
        let done = done(&text, &Inputs::default());
        let of = |number: &str| {
            let name = format!("port_{number}_health-probe_port: ");
            let rest = done.split_once(&name)?.1;
            rest.lines().next().map(|line| line.trim_matches('"').to_owned())
        };
        (of("80"), of("81"), done.contains(PORT))
    };
    let both = |port: &str| (Some(port.to_owned()), Some(port.to_owned()), false);
    let two = "[{port: 80, targetPort: 8080, nodePort: 30080}, {name: health, port: 81, targetPort: 9000, nodePort: 30081}]";
    assert_eq!(probed("9000", two), both("81"));
    assert_eq!(probed("30081", two), both("81"));
    assert_eq!(probed("health", two), both("81"));
    assert_eq!(probed("8080", two), both("80"));
    assert_eq!(probed("traffic-port", two), (None, None, false));
    assert_eq!(
        probed("9000", "[{port: 80}, {port: 81, targetPort: 9000, protocol: UDP}]"),
        (None, None, true)
    );
    assert_eq!(probed("81", "[{port: 80}, {port: 81}]"), both("81"));
    for port in ["81", "30090", "other"] {
        assert_eq!(probed(port, two), (None, None, true), "{port}");
        let text = service(&[(PORT, port)], "type: LoadBalancer").replace("[{port: 80}]", two);
        let found = finding(&text, &Inputs::default(), "EKS-NET-023");
        assert!(!found.rewritten && found.message.contains(&format!("asks port {port}")), "{found:?}");
    }
    // A pod's port may be behind a name.
    let message = |port: &str| {
        let ports = "[{name: web, port: 80, targetPort: http}, {name: log, port: 81, targetPort: log, protocol: UDP}]";
        let text = service(&[(PORT, port)], "type: LoadBalancer").replace("[{port: 80}]", ports);
        finding(&text, &Inputs::default(), "EKS-NET-023").message
    };
    let told = message("8080");
    assert!(told.contains("named port (`http`)") && !told.contains("no port of the Service leads"), "{told}");
    assert!(message("other").contains("no port of the Service leads"));
    // A person has said it.
    let said = [(PORT, "9000"), ("port_80_health-probe_port", "30090")];
    let done = done(&service(&said, "type: LoadBalancer"), &Inputs::default());
    assert!(!done.contains(PORT) && done.contains("health-probe_port: \"30090\""), "{done}");
}

#[test]
fn attributes_of_targets_that_pods_or_clients_would_miss_stay() {
    let left = |attributes: &str, spec: &str| {
        let spec = format!("type: LoadBalancer{spec}");
        let done = done(&service(&[(ATTRIBUTES, attributes)], &spec), &Inputs::default());
        let left = rules(&done, &Inputs::default());
        assert_eq!(left.is_empty(), !done.contains(ATTRIBUTES), "{done}");
        left
    };
    let none: [&str; 0] = [];
    assert_eq!(left("proxy_protocol_v2.enabled=true", ""), ["EKS-NET-028"]);
    assert_eq!(
        left("deregistration_delay.timeout_seconds=60, proxy_protocol_v2.enabled=true", ""),
        ["EKS-NET-028"]
    );
    assert_eq!(left("proxy_protocol_v2.enabled=false", ""), none);
    assert_eq!(left("stickiness.enabled=true,stickiness.type=source_ip", ""), ["EKS-NET-052"]);
    assert_eq!(left("stickiness.enabled=true", "\n  sessionAffinity: ClientIP"), none);
    assert_eq!(left("preserve_client_ip.enabled=true", ""), ["EKS-NET-052"]);
    assert_eq!(left("preserve_client_ip.enabled=true", "\n  externalTrafficPolicy: Local"), none);
    assert_eq!(left("preserve_client_ip.enabled=false", ""), none);
    let all = "stickiness.enabled=true,proxy_protocol_v2.enabled=true";
    assert_eq!(left(all, ""), ["EKS-NET-028", "EKS-NET-052"]);
    // Of one port.
    let of_port =
        service(&[(&format!("{ATTRIBUTES}.80"), "proxy_protocol_v2.enabled=true")], "type: LoadBalancer");
    assert_eq!(rules(&of_port, &Inputs::default()), ["EKS-NET-028"]);
    assert_eq!(done(&of_port, &Inputs::default()), of_port);
}
