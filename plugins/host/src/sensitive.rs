//! Whether what a plugin calls sensitive can be found in its outputs. A pointer that names nothing protects
//! nothing, and nobody would notice.

use serde_json::{Map, Value};

use crate::lines::clean;

/// How much of a wrong pointer is shown.
const SHOWN_BYTES: usize = 80;

/// Most places of a schema that are looked at for one pointer: real ones need some hundred, and one whose
/// `$ref`s go in a circle has no end.
const MAX_LOOKS: u32 = 10_000;

/// Deepest place: each is on the stack.
const MAX_DEPTH: u32 = 100;

/// What a schema says of a place.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Place {
    /// Nothing: it may be there.
    Open,
    /// Other places, and not this one.
    Absent,
    /// That it may be there.
    Named,
}

/// Makes sure that `pointer` is a JSON Pointer (RFC 6901) of a part of what fits `schema`.
///
/// # Errors
/// What is wrong, naming it.
pub(crate) fn check(pointer: &str, schema: &Value) -> Result<(), String> {
    let Some(tokens) = tokens(pointer) else {
        return Err("is no JSON Pointer: write `/field`, or `/field/inner`".to_owned());
    };
    let mut look = Look { root: schema, left: MAX_LOOKS, depth: 0 };
    match look.at(schema, &tokens) {
        Place::Open | Place::Named => Ok(()),
        Place::Absent if tokens.iter().any(|token| token == "*") => {
            let whole = pointer.split("/*").next().unwrap_or_default();
            let whole = if whole.is_empty() { "each field" } else { &clean(whole, SHOWN_BYTES) };
            Err(format!("names nothing in `output_schema`: there are no wildcards; name {whole}"))
        }
        Place::Absent => Err("names nothing in `output_schema`".to_owned()),
    }
}

/// The parts of a pointer, if it is one and not that of the whole document.
fn tokens(pointer: &str) -> Option<Vec<String>> {
    let parts = pointer.strip_prefix('/')?.split('/');
    parts
        .map(|part| {
            // A `~` is always `~0` or `~1`.
            let is_escaped = part.split('~').skip(1).all(|after| after.starts_with(['0', '1']));
            is_escaped.then(|| part.replace("~1", "/").replace("~0", "~"))
        })
        .collect()
}

struct Look<'a> {
    root: &'a Value,
    left: u32,
    depth: u32,
}

impl<'a> Look<'a> {
    /// What `schema` says of the place `tokens` below it.
    fn at(&mut self, schema: &'a Value, tokens: &[String]) -> Place {
        let Some((token, inner)) = tokens.split_first() else { return Place::Named };
        // What nobody can look through is not said to be wrong.
        if self.left == 0 || self.depth == MAX_DEPTH {
            return Place::Named;
        }
        (self.left, self.depth) = (self.left - 1, self.depth + 1);
        let place = match schema {
            Value::Object(words) => {
                let own = if may_hold(words.get("type"), token) { Place::Open } else { Place::Absent };
                let own = own.max(self.field(words, token, inner));
                words.iter().fold(own, |place, (word, value)| place.max(self.by_word(word, value, tokens)))
            }
            Value::Bool(false) => Place::Absent,
            _ => Place::Open,
        };
        self.depth -= 1;
        // Of what nothing is known, everything may be there; but nobody calls a field `*`.
        if place == Place::Open && token == "*" { Place::Absent } else { place }
    }

    /// What the words about fields say.
    fn field(&mut self, words: &'a Map<String, Value>, token: &str, inner: &[String]) -> Place {
        let properties = words.get("properties").and_then(Value::as_object);
        if let Some(schema) = properties.and_then(|known| known.get(token)) {
            // What it leaves open is below a place that is named.
            return match self.at(schema, inner) {
                Place::Absent => Place::Absent,
                Place::Open | Place::Named => Place::Named,
            };
        }
        // Whose pattern fits is not looked at.
        let patterns = words.get("patternProperties").and_then(Value::as_object);
        let more = ["additionalProperties", "unevaluatedProperties"].map(|word| words.get(word));
        let others: Vec<&Value> =
            patterns.into_iter().flat_map(Map::values).chain(more.into_iter().flatten()).collect();
        match (others.is_empty(), properties) {
            (true, None) => Place::Open,
            (true, Some(_)) => Place::Absent,
            (false, _) if token == "*" => Place::Absent,
            (false, _) => best(others.into_iter().map(|schema| match schema {
                Value::Bool(false) => Place::Absent,
                schema => self.at(schema, inner),
            })),
        }
    }

    /// What one of the other words says.
    fn by_word(&mut self, word: &str, value: &'a Value, tokens: &[String]) -> Place {
        let Some((token, inner)) = tokens.split_first() else { return Place::Named };
        match (word, value) {
            ("$ref", Value::String(to)) => self.referred(to, tokens),
            // All of them hold.
            ("allOf", Value::Array(schemas)) => {
                schemas.iter().fold(Place::Open, |place, schema| place.max(self.at(schema, tokens)))
            }
            ("if" | "then" | "else", schema) => self.at(schema, tokens),
            ("dependentSchemas", Value::Object(schemas)) => {
                schemas.values().fold(Place::Open, |place, schema| place.max(self.at(schema, tokens)))
            }
            // One of them holds.
            ("anyOf" | "oneOf", Value::Array(schemas)) => {
                best(schemas.iter().map(|schema| self.at(schema, tokens)))
            }
            ("items" | "unevaluatedItems", schema) if index(token).is_some() => self.at(schema, inner),
            ("prefixItems", Value::Array(schemas)) => {
                let schema = index(token).and_then(|at| schemas.get(at));
                schema.map_or(Place::Open, |schema| self.at(schema, inner))
            }
            _ => Place::Open,
        }
    }

    fn referred(&mut self, to: &str, tokens: &[String]) -> Place {
        // An anchor, or an escape of URLs: not looked through.
        let schema = to.strip_prefix('#').and_then(|pointer| self.root.pointer(pointer));
        schema.map_or(Place::Named, |schema| self.at(schema, tokens))
    }
}

/// Of several of which one holds.
fn best(places: impl Iterator<Item = Place>) -> Place {
    let places: Vec<Place> = places.collect();
    let order = [Place::Named, Place::Open];
    order.into_iter().find(|place| places.contains(place)).unwrap_or(Place::Absent)
}

/// An index of a list.
fn index(token: &str) -> Option<usize> {
    let is_index = token == "0" || !token.starts_with('0') && token.bytes().all(|byte| byte.is_ascii_digit());
    is_index.then(|| token.parse().ok()).flatten()
}

/// Whether a value of this `type` may have something called `token`.
fn may_hold(kind: Option<&Value>, token: &str) -> bool {
    let may = |kind: &Value| match kind.as_str() {
        Some("object") => true,
        Some("array") => index(token).is_some(),
        _ => false,
    };
    match kind {
        None => true,
        Some(Value::Array(kinds)) => kinds.iter().any(may),
        Some(kind) => may(kind),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn what_the_schema_names_or_leaves_open_is_taken() {
        let schema = json!({
            "type": "object",
            "properties": {
                "password": { "type": "string" },
                "maybe": { "type": ["object", "null"], "properties": { "token": {} } },
                "any": {},
                "users": { "type": "array", "items": { "$ref": "#/$defs/user" } },
                "pair": { "prefixItems": [{ "type": "string" }, { "$ref": "#/$defs/user" }], "items": false },
                "by-name": { "type": "object", "additionalProperties": { "$ref": "#/$defs/user" } },
                "a/b~c": { "type": "string" },
                "either": { "anyOf": [{ "type": "object" }, { "type": "null" }] },
                "mixed": { "properties": { "a": {} }, "additionalProperties": true },
            },
            "allOf": [{ "properties": { "more": { "anyOf": [{ "type": "string" }, { "$ref": "#/$defs/user" }] } } }],
            "$defs": { "user": { "type": "object", "properties": { "password": { "type": "string" } } } },
        });
        for pointer in [
            "/password",
            "/maybe/token",
            "/any/thing/at/all",
            "/users",
            "/users/0/password",
            "/pair/1/password",
            "/by-name/anna/password",
            "/a~1b~0c",
            "/more/password",
            "/either/password",
            "/mixed/b/password",
        ] {
            assert_eq!(check(pointer, &schema), Ok(()), "{pointer}");
        }
        for pointer in [
            "/Password",
            "/password/inner",
            "/maybe/tokens",
            "/any/*",
            "/users/*/password",
            "/users/0/name",
            "/users/password",
            "/by-name/*/password",
            "/by-name/anna/name",
            "/more/token",
            "/either/*",
            "/mixed/*",
            "/",
        ] {
            let said = check(pointer, &schema).unwrap_err();
            assert!(said.starts_with("names nothing in `output_schema`"), "{pointer}: {said}");
        }
        for open in [json!({}), json!(true), json!({ "type": "object" })] {
            assert_eq!(check("/password", &open), Ok(()));
            assert!(check("/*", &open).is_err());
        }
        assert!(check("/x", &json!({ "type": "object", "additionalProperties": false })).is_err());
    }

    #[test]
    fn what_is_no_pointer_is_refused() {
        for pointer in ["", "password", "users/0", "#/password", "/a~", "/a~2b"] {
            assert!(check(pointer, &json!({})).unwrap_err().starts_with("is no JSON Pointer"), "{pointer}");
        }
    }

    #[test]
    fn a_schema_without_end_costs_no_time() {
        let circle = json!({ "allOf": [{ "$ref": "#" }, { "$ref": "#" }] });
        assert_eq!(check("/x", &circle), Ok(()));
    }
}
