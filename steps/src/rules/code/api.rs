//! Objects of API versions that are gone, where the successor has another form.

use serde_json::{Value, json};

use crate::manifests::edit::Edit;
use crate::rules::engine::{Look, Match};
use crate::rules::path::{Pattern, key};

/// An Ingress before `networking.k8s.io/v1`.
pub(super) fn ingress(look: &Look<'_>) -> Vec<Match> {
    let version = vec![key("apiVersion")];
    let mut found = Match::at(version.clone()).found(&look.object.api_version);
    found = found.edit(Edit::Set { path: version, value: "networking.k8s.io/v1".into() });
    let node = look.object.node;
    for pattern in ["spec.rules[].http.paths[].backend", "spec.backend"] {
        for (path, backend) in Pattern::parse(pattern).map(|p| p.find(node)).unwrap_or_default() {
            let Some(name) = backend.text_at(&["serviceName"]) else { continue };
            let port = match backend.get("servicePort").map(crate::rules::document::Node::to_value) {
                Some(Value::Number(number)) => json!({ "number": number }),
                Some(Value::String(text)) => match text.parse::<u16>() {
                    Ok(number) => json!({ "number": number }),
                    Err(_) => json!({ "name": text }),
                },
                _ => continue,
            };
            let value = json!({ "service": { "name": name, "port": port } });
            if path.len() == 2 {
                found = found.edit(Edit::Set { path: path.clone(), value });
                found = found.edit(Edit::Rename { path, to: "defaultBackend".to_owned() });
                continue;
            }
            let around = path[..path.len() - 1].to_vec();
            found = found.edit(Edit::Set { path, value });
            if node.follow(&around).is_some_and(|path| path.get("pathType").is_none()) {
                let kind = "ImplementationSpecific".into();
                found = found.edit(Edit::Insert { path: around, key: "pathType".to_owned(), value: kind });
            }
        }
    }
    vec![found]
}
