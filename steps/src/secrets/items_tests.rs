//! What becomes of a secret that was read.

use super::*;

fn text(value: &str) -> Content {
    Content::Text(Secret::new(value))
}

fn held(name: &str, content: Content) -> Held {
    Held {
        name: name.to_owned(),
        arn: format!("arn:aws:secretsmanager:us-east-1:123456789012:secret:{name}-a1B2c3"),
        description: None,
        tags: BTreeMap::new(),
        is_rotated: false,
        current: Version { id: "v2".to_owned(), content },
        previous: None,
    }
}

fn table(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
    pairs.iter().map(|(from, to)| ((*from).to_owned(), (*to).to_owned())).collect()
}

fn split(name: &str, fields: &[&str]) -> BTreeMap<String, Vec<String>> {
    [(name.to_owned(), fields.iter().map(|field| (*field).to_owned()).collect())].into()
}

fn plain(held: &[Held], names: &BTreeMap<String, String>) -> Result<Vec<Item>, Vec<Problem>> {
    items(held, &Shape { names, split: &BTreeMap::new(), keep_whole: false })
}

fn messages(problems: Result<Vec<Item>, Vec<Problem>>) -> String {
    let problems = problems.map(|items| items.len()).unwrap_err();
    problems.into_iter().map(|problem| problem.message).collect::<Vec<_>>().join("\n")
}

#[test]
fn names_that_do_not_fit_or_collide_are_told_before_anything_is_written() {
    let none = BTreeMap::new();
    let all = [held("shop/db", text("a")), held("shop_DB", text("b")), held("///", text("c"))];
    let long = held(&"x".repeat(128), text("d"));
    insta::assert_snapshot!(messages(plain(&all, &none)), @"
    secret /// would be called ``, and Key Vault takes 1 to 127 letters, digits and `-`
    secrets shop_DB, shop/db would all be called `shop-db` in the vault
    ");
    assert!(messages(plain(&[long], &none)).contains("1 to 127"));
    // A field may meet a whole secret.
    let all = [held("shop", text(r#"{"db":"a"}"#)), held("shop/db", text("b"))];
    let shape = Shape { names: &none, split: &split("shop", &["db"]), keep_whole: true };
    assert!(messages(items(&all, &shape)).contains("shop.db, shop/db would all be called `shop-db`"));
    // The way out.
    let names = table(&[("shop/db", "db-new")]);
    let found = items(&all, &Shape { names: &names, ..shape }).unwrap();
    let found: Vec<_> = found.iter().map(|item| (item.subject(), item.target.as_str())).collect();
    assert_eq!(
        found,
        [("shop/db".to_owned(), "db-new"), ("shop".to_owned(), "shop"), ("shop.db".to_owned(), "shop-db")]
    );
}

#[test]
fn fields_become_secrets_of_their_own() {
    let json = r#"{"user":"u","port":5432,"a.b":"dotted","deep":{"key":"k"},"none":null}"#;
    let (none, all) = (BTreeMap::new(), [held("shop/db", text(json))]);
    let fields = split("shop/db", &["user", "port", "a.b", "deep.key", "deep"]);
    let found = items(&all, &Shape { names: &none, split: &fields, keep_whole: false }).unwrap();
    let seen: Vec<_> = found
        .iter()
        .map(|item| (item.target.as_str(), item.current.value.expose(), item.content_type))
        .collect();
    assert_eq!(
        seen,
        [
            ("shop-db-a-b", "dotted", "text/plain"),
            ("shop-db-deep", r#"{"key":"k"}"#, "application/json"),
            ("shop-db-deep-key", "k", "text/plain"),
            ("shop-db-port", "5432", "text/plain"),
            ("shop-db-user", "u", "text/plain"),
        ]
    );
    // To the letter: what reads it on EKS gets it so too.
    let json = r#"{"pin":12345678901234567890123,"version":1.10,"small":1e-7,"is":true,
        "list":[1.0, 2],"deep":{"pin":0.10, "text":"\u00e4"},"text":"\u00e4\n"}"#;
    let all_of_it = [held("shop/db", text(json))];
    let fields = split("shop/db", &["pin", "version", "small", "is", "list", "deep", "deep.pin", "text"]);
    let found = items(&all_of_it, &Shape { names: &none, split: &fields, keep_whole: false }).unwrap();
    let seen: BTreeMap<_, _> =
        found.iter().map(|item| (item.field.as_deref().unwrap(), item.current.value.expose())).collect();
    let expected = [
        ("deep", r#"{"pin":0.10, "text":"\u00e4"}"#),
        ("deep.pin", "0.10"),
        ("is", "true"),
        ("list", "[1.0, 2]"),
        ("pin", "12345678901234567890123"),
        ("small", "1e-7"),
        ("text", "ä\n"),
        ("version", "1.10"),
    ];
    assert_eq!(seen, expected.into());
    let wrong = split("shop/db", &["none", "gone", "deep.gone"]);
    let wrong = items(&all, &Shape { names: &none, split: &wrong, keep_whole: false });
    assert_eq!(messages(wrong).matches("has no such field").count(), 3);
    let stray = split("shop/other", &["user"]);
    assert!(
        messages(items(&all, &Shape { names: &none, split: &stray, keep_whole: false }))
            .contains("not among")
    );
    for content in [text("no JSON, canary-77"), Content::Binary(Secret::new("AAAA"))] {
        let all = [held("shop/db", content)];
        let told = messages(items(
            &all,
            &Shape { names: &none, split: &split("shop/db", &["user"]), keep_whole: false },
        ));
        assert!(told.contains("has no fields") && !told.contains("canary"), "{told}");
    }
}

#[test]
fn what_is_too_large_is_told_also_when_base64_makes_it_so() {
    let none = BTreeMap::new();
    assert!(plain(&[held("a", text(&"x".repeat(25_600)))], &none).is_ok());
    let all =
        [held("a", text(&"x".repeat(25_601))), held("b", Content::Binary(Secret::new("x".repeat(26_000))))];
    let told = messages(plain(&all, &none));
    assert_eq!(told.matches("at most 25600").count(), 2, "{told}");
}

#[test]
fn a_whole_that_is_too_large_beside_its_fields_is_told_another_way_out() {
    let none = BTreeMap::new();
    let all = [held("a", text(&format!(r#"{{"user":"u","rest":"{}"}}"#, "x".repeat(25_600))))];
    let (unsplit, fields) = (BTreeMap::new(), split("a", &["user"]));
    let hint = |split, keep_whole| {
        let problems = items(&all, &Shape { names: &none, split, keep_whole }).err()?;
        problems.into_iter().next()?.hint
    };
    assert!(hint(&unsplit, false).unwrap().contains("split it into its fields"));
    let told = hint(&fields, true).unwrap();
    assert!(told.contains("without `keep-whole`") && !told.contains("split"), "{told}");
    assert_eq!(hint(&fields, false), None);
}

#[test]
fn tags_and_description_are_kept_where_they_fit_and_the_rest_is_told() {
    let mut one = held("a", text("x"));
    one.description = Some("the database".to_owned());
    one.is_rotated = true;
    one.tags = (0..14).map(|at| (format!("tag-{at:02}"), "v".to_owned())).collect();
    one.tags.insert("aws:cloudformation:stack-name".to_owned(), "shop".to_owned());
    one.tags.insert("Description".to_owned(), "again".to_owned());
    let found = plain(&[one], &BTreeMap::new()).unwrap().remove(0);
    // With the version's, which is added when it is set, fifteen.
    assert_eq!(found.tags.len(), 14);
    assert_eq!(found.tags["description"], "the database");
    assert!(found.tags[SOURCE_TAG].starts_with("arn:aws:secretsmanager"));
    assert_eq!(
        found.left_out,
        [
            "its tag Description",
            "its tag tag-12",
            "its tag tag-13",
            "its rotation, which Key Vault leaves to a function of yours"
        ]
    );
}

#[test]
fn the_previous_version_is_kept_where_it_says_something_else() {
    let none = BTreeMap::new();
    let mut one = held("a", text(r#"{"user":"u","password":"new"}"#));
    one.previous = Some(Version { id: "v1".to_owned(), content: text(r#"{"user":"u","password":"old"}"#) });
    let shape = Shape { names: &none, split: &split("a", &["user", "password"]), keep_whole: false };
    let found = items(&[one], &shape).unwrap();
    let seen: Vec<_> =
        found.iter().map(|i| (i.target.as_str(), i.previous.as_ref().map(|p| p.value.expose()))).collect();
    assert_eq!(seen, [("a-password", Some("old")), ("a-user", None)]);
}

#[test]
fn a_part_is_the_same_however_it_is_written_and_nothing_else_is() {
    let is = |content: &str, field: &str, found: &str| {
        is_copied(&text(content), Some(&field.to_owned()), &Secret::new(found)).unwrap()
    };
    let json = r#"{"hosts": ["a", "b"], "deep": {"pin": 1.50, "b": [1e3, true, null, "\u00e4"]},
        "large": [12345678901234567890123], "port": 1.50, "text": "[1, 2]"}"#;
    for (field, found) in [
        ("hosts", r#"["a","b"]"#),
        ("deep", r#"{"b":[1000.0,true,null,"ä"],"pin":1.5}"#),
        ("large", "[12345678901234567890123]"),
        ("port", "1.50"),
        ("text", "[1, 2]"),
    ] {
        assert!(is(json, field, found), "{field}: {found}");
    }
    for (field, found) in [
        ("hosts", r#"["b","a"]"#),
        ("hosts", r#"["a"]"#),
        ("hosts", r#"["a","b"] x"#),
        ("deep", r#"{"b":[1000.0,true,null,"ä"],"pin":1.5,"more":1}"#),
        ("deep", r#"{"b":[1000.1,true,null,"ä"],"pin":1.5}"#),
        ("deep", r#"{"b":[1000.0,true,0,"ä"],"pin":1.5}"#),
        // An earlier version has written this.
        ("large", "[1.2345678901234568e+22]"),
        // To the letter: these are texts.
        ("port", "1.5"),
        ("text", "[1,2]"),
    ] {
        assert!(!is(json, field, found), "{field}: {found}");
    }
    let whole = text(r#"{"a": 1}"#);
    assert_eq!(is_copied(&whole, None, &Secret::new(r#"{"a":1}"#)), Some(false));
    let deep = format!(r#"{{"a":{}{}}}"#, "[".repeat(9_000), "]".repeat(9_000));
    assert!(!is(&deep, "a", &format!("{} {}", "[".repeat(9_000), "]".repeat(9_000))));
    let numbers = ["0", "-0.0", "10", "1e1", "1.0E+1", "-10", "0.001", "1e-3", "100e-5"].map(number);
    let same = |at: usize| numbers.iter().filter(|number| **number == numbers[at]).count();
    assert_eq!([0, 1, 2, 5, 6].map(same), [1, 1, 3, 1, 3]);
}
