//! Who reads secrets: what each becomes, and what stays since Key Vault has no like.

use super::tests::{found, rewritten};
use super::*;

/// What the site gives.
fn inputs() -> Inputs {
    toml::from_str(
        r#"
        key-vault = "shop-vault"
        tenant-id = "00000000-1111-2222-3333-444444444444"
        identities = { "shop/db" = "11111111-2222-3333-4444-555555555555" }
        "#,
    )
    .unwrap()
}

/// `text` as it is rewritten, and what is left of it: rule, path and message.
fn left(text: &str) -> (String, Vec<(String, String, String)>) {
    let left = found(text, &inputs()).into_iter().filter(|finding| !finding.rewritten);
    (
        rewritten(&RuleSet::shipped(), text, &inputs()).unwrap(),
        left.map(|finding| (finding.rule, finding.path, finding.message)).collect(),
    )
}

fn store(kind: &str, namespace: &str, auth: &str) -> String {
    format!(
        "apiVersion: external-secrets.io/v1\nkind: {kind}\nmetadata: {{name: aws, namespace: {namespace}}}\n\
         spec:\n  provider:\n    aws: {{service: SecretsManager, region: us-east-1{auth}}}\n"
    )
}

fn external(namespace: &str, spec: &str) -> String {
    format!(
        "apiVersion: external-secrets.io/v1\nkind: ExternalSecret\nmetadata: {{name: db, namespace: {namespace}}}\nspec:\n{spec}"
    )
}

#[test]
fn a_store_with_credentials_of_its_own_does_not_read_as_external_secrets_itself() {
    let role = ", role: 'arn:aws:iam::123456789012:role/team-a'";
    let keys = ", auth: {secretRef: {accessKeyIDSecretRef: {name: keys, key: id}}}";
    let own = ", role: reader, auth: {jwt: {serviceAccountRef: {name: reader}}}";
    for (kind, auth, limit) in [
        ("SecretStore", role, "arn:aws:iam::123456789012:role/team-a"),
        ("SecretStore", keys, "auth.secretRef"),
        ("ClusterSecretStore", role, "arn:aws:iam::123456789012:role/team-a"),
    ] {
        let text = store(kind, "team-a", auth);
        let finding = found(&text, &inputs()).into_iter().find(|f| f.rule == "EKS-SEC-002").unwrap();
        assert!(!finding.rewritten && finding.needs.is_empty(), "{finding:?}");
        assert_eq!(finding.found.as_deref(), Some(limit));
        assert!(finding.message.contains("ServiceAccount with an identity"), "{}", finding.message);
        assert_eq!(left(&text).0, text);
    }
    let done = left(&store("SecretStore", "team-a", own)).0;
    assert!(done.contains("azurekv") && done.contains("name: reader") && !done.contains("role"), "{done}");
}

#[test]
fn names_stay_with_a_store_that_stays_and_change_with_another_of_the_same_name() {
    let reader = "  secretStoreRef: {name: aws}\n  dataFrom: [{extract: {key: prod/db}}]\n";
    let of = |stores: &[String], namespace: &str| {
        let text = [stores, &[external(namespace, reader)]].concat().join("---\n");
        let (done, left) = left(&text);
        let waits = |(rule, _, message): &(String, String, String)| {
            rule == "EKS-SEC-003" && message.contains("SecretStore aws stays for a person (EKS-SEC-002)")
        };
        (done.contains("key: prod-db"), left.iter().any(waits))
    };
    let stores = [store("SecretStore", "team-a", ", role: a"), store("SecretStore", "team-b", "")];
    assert_eq!(of(&stores, "team-a"), (false, true));
    assert_eq!(of(&stores, "team-b"), (true, false));
    assert_eq!(of(&stores, "team-c"), (false, false));
    assert_eq!(of(&stores, "''"), (false, true));
}

fn class(objects: &str) -> String {
    format!(
        "apiVersion: secrets-store.csi.x-k8s.io/v1\nkind: SecretProviderClass\nmetadata: {{name: db, namespace: shop}}\n\
         spec:\n  provider: aws\n  parameters:\n    objects: |\n      - {{objectName: shop/db, objectType: secretsmanager, \
         {objects}}}\n  secretObjects: [{{secretName: db, type: Opaque, data: [{{objectName: shop_db, key: json}}]}}]\n"
    )
}

#[test]
fn a_class_mounts_the_whole_secret_beside_its_fields_with_the_same_permissions() {
    let text = class(
        "filePermission: '0400', jmesPath: [{path: user, objectAlias: u}, {path: key, objectAlias: k, filePermission: '0440'}]",
    );
    let done = left(&text).0;
    let files = "      array:
      - |
        objectName: shop-db
        objectType: secret
        objectAlias: shop_db
        filePermission: \"0400\"
      - |
        objectName: shop-db-user
        objectType: secret
        objectAlias: u
        filePermission: \"0400\"
      - |
        objectName: shop-db-key
        objectType: secret
        objectAlias: k
        filePermission: \"0440\"
";
    assert!(done.contains(files), "{done}");
    let told = found(&text, &inputs()).remove(0).message;
    assert!(told.contains("mounts shop/db whole") && told.contains("keep-whole"), "{told}");
    assert!(!left(&class("objectAlias: a")).0.contains("filePermission"));
}

#[test]
fn files_of_a_class_keep_their_names() {
    // The translation of slashes, the object, and its files.
    for (translation, object, names) in [
        ("", "jmesPath: [{path: user, objectAlias: db/user}]", ["shop_db", "db_user"]),
        ("''", "jmesPath: [{path: user, objectAlias: user}]", ["shop_db", "user"]),
        ("'-'", "jmesPath: [{path: user, objectAlias: db/user}]", ["", "db-user"]),
        ("'-'", "objectAlias: db/pass, jmesPath: [{path: user, objectAlias: u}]", ["db-pass", "u"]),
        ("'.'", "jmesPath: [{path: user, objectAlias: db/user}]", ["shop.db", "db.user"]),
        (
            "'False'",
            "objectAlias: //db/pass, jmesPath: [{path: user, objectAlias: db/user}]",
            ["db/pass", "db/user"],
        ),
        (
            "'false'",
            "objectAlias: '', jmesPath: [{path: user, objectAlias: db/user}]",
            ["shop/db", "db/user"],
        ),
    ] {
        let mut text = class(object);
        if !translation.is_empty() {
            text = text
                .replace("  parameters:\n", &format!("  parameters:\n    pathTranslation: {translation}\n"));
        }
        let done = left(&text).0;
        let aliases: Vec<&str> =
            done.lines().filter_map(|line| line.trim().strip_prefix("objectAlias: ")).collect();
        // No alias is the secret's name, `shop-db`.
        let names: Vec<&str> = names.into_iter().filter(|name| !name.is_empty()).collect();
        assert_eq!(aliases, names, "{text}\n{done}");
        assert!(!done.contains("pathTranslation"), "{done}");
    }
}

#[test]
fn a_class_that_reads_another_version_than_the_current_one_stays() {
    for (version, named) in [
        ("objectVersionLabel: AWSPREVIOUS", "AWSPREVIOUS"),
        ("objectVersion: 7d1c5a3e-0000-4000-8000-000000000001", "7d1c5a3e"),
        ("objectVersionLabel: AWSCURRENT, objectVersion: 7d1c5a3e-0000-4000-8000-000000000001", "7d1c5a3e"),
    ] {
        let text = class(version);
        let (done, left) = left(&text);
        assert_eq!(done, text);
        let (rule, _, message) = &left[0];
        assert!(rule == "EKS-SEC-001" && message.contains("shop/db in the version"), "{left:?}");
        assert!(message.contains(named), "{message}");
    }
    for current in ["objectVersionLabel: AWSCURRENT", "objectVersion: ''"] {
        assert!(left(&class(current)).0.contains("provider: azure"), "{current}");
    }
}

#[test]
fn names_go_by_the_store_that_each_is_read_from() {
    let of = |spec: &str| left(&[store("SecretStore", "shop", ""), external("shop", spec)].join("---\n"));
    let own = "{sourceRef: {storeRef: {name: aws}}, ";
    for (spec, is_ours) in [
        (format!("  data: [{own}secretKey: a, remoteRef: {{key: prod/db}}}}]\n"), true),
        (format!("  dataFrom: [{own}extract: {{key: prod/db}}}}]\n"), true),
        ("  secretStoreRef: {name: aws, kind: SecretStore}\n  dataFrom: [{extract: {key: prod/db}}]\n".to_owned(), true),
        ("  secretStoreRef: {name: aws, kind: ClusterSecretStore}\n  dataFrom: [{extract: {key: prod/db}}]\n".to_owned(), false),
        (
            "  secretStoreRef: {name: aws}\n  dataFrom: [{sourceRef: {storeRef: {name: vault}}, extract: {key: prod/db}}]\n"
                .to_owned(),
            false,
        ),
        (
            "  secretStoreRef: {name: aws}\n  dataFrom: [{sourceRef: {generatorRef: {kind: Password, name: a}}}]\n".to_owned(),
            false,
        ),
    ] {
        let (done, left) = of(&spec);
        assert_eq!(done.contains("key: prod-db"), is_ours, "{done}");
        assert_eq!(left, [], "{spec}");
    }
}

#[test]
fn what_key_vault_has_no_like_of_is_left_for_a_person() {
    let secret = |item: &str| external("shop", &format!("  secretStoreRef: {{name: aws}}\n  {item}\n"));
    let object = |kind: &str, spec: &str| {
        format!(
            "apiVersion: external-secrets.io/v1alpha1\nkind: {kind}\nmetadata: {{name: db, namespace: shop}}\nspec: {spec}\n"
        )
    };
    let pushed = |stores: &str| {
        format!(
            "{{secretStoreRefs: [{stores}], data: [{{match: {{secretKey: a, remoteRef: {{remoteKey: prod/db}}}}}}]}}"
        )
    };
    let push = |stores: &str| object("PushSecret", &pushed(stores));
    let cluster_push = object("ClusterPushSecret", &format!("{{pushSecretSpec: {}}}", pushed("{name: aws}")));
    for (text, path, words) in [
        (
            secret("dataFrom: [{find: {name: {regexp: ^prod/}}}]"),
            "spec.dataFrom[0].find",
            "found by name or tag",
        ),
        (
            secret("dataFrom: [{find: {path: prod, tags: {a: b}}}]"),
            "spec.dataFrom[0].find",
            "found by name or tag",
        ),
        (
            secret("data: [{secretKey: a, remoteRef: {key: db, version: AWSPREVIOUS}}]"),
            "spec.data[0].remoteRef.version",
            "name one of the vault",
        ),
        (
            secret("dataFrom: [{extract: {key: db, version: uuid/7d1c5a3e}}]"),
            "spec.dataFrom[0].extract.version",
            "name one of the vault",
        ),
        (push("{name: other}, {name: aws}"), "spec.secretStoreRefs[1]", "`remoteKey` must be"),
        (push("{labelSelector: {matchLabels: {a: b}}}"), "spec.secretStoreRefs[0]", "`remoteKey` must be"),
        (cluster_push, "spec.pushSecretSpec.secretStoreRefs[0]", "`remoteKey` must be"),
    ] {
        let (done, left) = left(&[store("SecretStore", "shop", ""), text.clone()].join("---\n"));
        assert!(done.ends_with(&text), "{done}");
        let [(rule, place, message)] = left.as_slice() else { panic!("{text}: {left:?}") };
        assert!(rule == "EKS-SEC-003" && place == path && message.contains(words), "{left:?}");
    }
    assert_eq!(left(&push("{name: aws}")).1, []);
}
