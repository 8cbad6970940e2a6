//! What may be a secret in a file that a mistake is shown of. Only decides what is not shown: a value
//! that stands where one usually stands and is no reference to a secret, and whatever follows such a
//! key in a file that can't be read. Knows nothing of steps; what a step's schema asks a reference
//! for, and what is given to a step without a schema, is hidden by the checker.

use migrate_plugin_api::SecretRef;

use super::diagnostic::{Mistakes, Source, nearest};
use super::template::{Template, TemplateKind};
use super::tree::{Kind, Span, Tree};

/// Words in the names of keys that hold secrets.
const WORDS: [&str; 7] = ["password", "passwd", "pass", "secret", "token", "sas", "credential"];

/// Shortest word that is taken for a misspelled one of [`WORDS`]: shorter ones are near to anything.
const MIN_MISSPELLED: usize = 5;

/// Places in `file` that are not shown.
pub(crate) fn places(file: &Source) -> Vec<Span> {
    let mut found = Vec::new();
    match Tree::parse(file, &mut Mistakes::default()) {
        Some(tree) => walk(&tree, &mut found),
        None => scan(file.text(), &mut found),
    }
    found
}

/// Every value in `tree`, at whatever depth.
pub(crate) fn values(tree: &Tree, found: &mut Vec<Span>) {
    match &tree.kind {
        Kind::Table(entries) => entries.iter().for_each(|entry| values(&entry.value, found)),
        Kind::List(items) => items.iter().for_each(|item| values(item, found)),
        _ => found.push(tree.span.clone()),
    }
}

/// Every value that is written in `template`, at whatever depth; what it refers to is written elsewhere.
pub(crate) fn written(template: &Template, found: &mut Vec<Span>) {
    match &template.kind {
        TemplateKind::Map(entries) => entries.iter().for_each(|(_, _, value)| written(value, found)),
        TemplateKind::List(items) => items.iter().for_each(|item| written(item, found)),
        TemplateKind::Reference(_) => {}
        TemplateKind::Text(_) => {
            let mut at = template.span.start;
            // Where the place of a reference in the text isn't known, it is all of it.
            for reference in template.references().into_iter().filter(|it| it.span != template.span) {
                found.push(at..reference.span.start);
                at = reference.span.end;
            }
            found.push(at..template.span.end);
        }
        TemplateKind::Literal(_) | TemplateKind::Broken => found.push(template.span.clone()),
    }
}

fn walk(tree: &Tree, found: &mut Vec<Span>) {
    match &tree.kind {
        Kind::Table(entries) => {
            for entry in entries {
                match &entry.value.kind {
                    // What is under it has names of its own.
                    Kind::Table(_) => walk(&entry.value, found),
                    Kind::String(text) if is_reference(text) => {}
                    _ if names_a_secret(&entry.key) => values(&entry.value, found),
                    _ => walk(&entry.value, found),
                }
            }
        }
        Kind::List(items) => items.iter().for_each(|item| walk(item, found)),
        _ => {}
    }
}

fn is_reference(text: &str) -> bool {
    text.starts_with("${") || SecretRef::try_from(text.to_owned()).is_ok()
}

fn names_a_secret(key: &str) -> bool {
    let key = key.to_lowercase();
    key.split(|c: char| !c.is_alphanumeric()).any(|word| {
        let singular = word.strip_suffix('s').unwrap_or(word);
        WORDS.contains(&word)
            || WORDS.contains(&singular)
            || word.len() >= MIN_MISSPELLED && nearest(word, &WORDS).is_some()
    })
}

/// The same in a text that is no TOML: from the `=` after such a key to the end of the line, or of the
/// text that begins there.
fn scan(text: &str, found: &mut Vec<Span>) {
    let mut at = 0;
    while let Some(equals) = text[at..].find('=').map(|offset| at + offset) {
        at = equals + 1;
        let before = text[..equals].trim_end_matches([' ', '\t', '"', '\'']);
        let is_key = |c: char| c.is_alphanumeric() || "-_".contains(c);
        let key = &before[before.trim_end_matches(is_key).len()..];
        if !names_a_secret(key) {
            continue;
        }
        let rest = &text[at..];
        let value = rest.trim_start_matches([' ', '\t']);
        let long = ["\"\"\"", "'''"].into_iter().find(|quotes| value.starts_with(quotes));
        let end = match long {
            Some(quotes) => {
                let start = rest.len() - value.len() + quotes.len();
                rest[start..].find(quotes).map_or(rest.len(), |length| start + length)
            }
            None => rest.find('\n').unwrap_or(rest.len()),
        };
        found.push(at + (rest.len() - value.len())..at + end);
        at += end;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hidden(text: &str) -> Vec<String> {
        let file = Source::new("w.toml", text);
        places(&file).into_iter().map(|span| text[span].trim().to_owned()).collect()
    }

    #[test]
    fn what_may_be_a_secret_is_found_by_the_name_of_its_key() {
        let text = "[a.registry]\nusername = \"ada\"\npasword = \"one\"\n[b]\nsas = \"two\"\nlist = [{ client-secret = 3 }]\ntokens = [\"four\"]\n";
        assert_eq!(hidden(text), ["\"one\"", "\"two\"", "3", "\"four\""]);
        let none = "[secrets]\nregion = \"x\"\n[a]\npassword = \"env:X\"\nsas = \"${params.sas}\"\ncontext = \"eks\"\ndisaster = 1\n";
        assert_eq!(hidden(none), Vec::<String>::new());
    }

    #[test]
    fn it_is_found_in_what_is_no_toml_too() {
        let text = "a = = 3\n\"password\" = \"one\"\nb = { sas = 'two' }\nx = 1\ntoken = \"\"\"\nthree\nfour\n\"\"\"\n";
        assert_eq!(hidden(text), ["\"one\"", "'two' }", "\"\"\"\nthree\nfour"]);
        assert_eq!(hidden("a = = 3\nsecret = \"one"), ["\"one"]);
    }
}
