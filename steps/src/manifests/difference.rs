//! What makes one object of another: operations of JSON Patch (RFC 6902), and the scalars that changed. Pure.

use serde_json::{Value, json};

/// Operations that make `after` of `before`, in order.
pub(crate) fn operations(before: &Value, after: &Value) -> Vec<Value> {
    let mut all = Vec::new();
    walk(before, after, &mut String::new(), &mut |path, change| {
        all.push(match change {
            Change::Added(value) => json!({ "op": "add", "path": path, "value": value }),
            Change::Removed => json!({ "op": "remove", "path": path }),
            Change::Replaced(_, value) => json!({ "op": "replace", "path": path, "value": value }),
        });
    });
    all
}

/// Texts that became other texts, with where they are.
pub(crate) fn texts(before: &Value, after: &Value) -> Vec<(String, Value, Value)> {
    let mut all = Vec::new();
    walk(before, after, &mut String::new(), &mut |path, change| {
        all.push(match change {
            Change::Added(value) => (path.to_owned(), Value::Null, value.clone()),
            Change::Removed => (path.to_owned(), Value::Null, Value::Null),
            Change::Replaced(before, after) => (path.to_owned(), before.clone(), after.clone()),
        });
    });
    all
}

enum Change<'a> {
    Added(&'a Value),
    Removed,
    Replaced(&'a Value, &'a Value),
}

fn walk(before: &Value, after: &Value, path: &mut String, tell: &mut dyn FnMut(&str, Change<'_>)) {
    match (before, after) {
        (Value::Object(a), Value::Object(b)) => {
            for (key, before) in a {
                let length = path.len();
                path.push('/');
                path.push_str(&key.replace('~', "~0").replace('/', "~1"));
                match b.get(key) {
                    Some(after) => walk(before, after, path, tell),
                    None => tell(path, Change::Removed),
                }
                path.truncate(length);
            }
            for (key, value) in b.iter().filter(|(key, _)| !a.contains_key(*key)) {
                tell(&format!("{path}/{}", key.replace('~', "~0").replace('/', "~1")), Change::Added(value));
            }
        }
        (Value::Array(a), Value::Array(b)) if a.len() == b.len() => {
            for (at, (before, after)) in a.iter().zip(b).enumerate() {
                let length = path.len();
                path.push_str(&format!("/{at}"));
                walk(before, after, path, tell);
                path.truncate(length);
            }
        }
        _ if before == after => {}
        _ => tell(path, Change::Replaced(before, after)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_change_is_an_operation_and_nothing_else() {
        let before = json!({ "a": 1, "b": { "x/y": "old", "~": 1 }, "list": [1, { "k": "v" }], "gone": {}, "grows": [1] });
        let after = json!({ "a": 1, "b": { "x/y": "new", "~": 1 }, "list": [1, { "k": "w" }], "grows": [1, 2], "new": [] });
        assert_eq!(
            operations(&before, &after),
            [
                json!({ "op": "replace", "path": "/b/x~1y", "value": "new" }),
                json!({ "op": "replace", "path": "/list/1/k", "value": "w" }),
                json!({ "op": "remove", "path": "/gone" }),
                json!({ "op": "replace", "path": "/grows", "value": [1, 2] }),
                json!({ "op": "add", "path": "/new", "value": [] }),
            ]
        );
        assert_eq!(operations(&after, &after), [] as [Value; 0]);
    }
}
