//! Who reads secrets from Secrets Manager.

use serde_json::{Map, Value, json};

use super::identity::client_id;
use super::items;
use crate::manifests::edit::Edit;
use crate::manifests::yaml::to_yaml;
use crate::rules::document::{Node, read};
use crate::rules::engine::{Look, Match};
use crate::rules::object::Object;
use crate::rules::path::{Path, key, with};
use crate::secrets::{field_name, vault_name};

/// The stage that is read where none is named.
const CURRENT: &str = "AWSCURRENT";

/// The file that an alias, or a name without one, makes in the folder of a class with this `pathTranslation`: what
/// slashes become, or that they make folders, as they do with Azure's provider.
/// <https://github.com/aws/secrets-store-csi-driver-provider-aws/blob/main/provider/secret_descriptor.go> and
/// <https://github.com/Azure/secrets-store-csi-driver-provider-azure/blob/master/pkg/provider/validate.go>
fn file_name(translation: Option<&str>, alias: &str) -> String {
    match translation.filter(|translation| !translation.is_empty()).unwrap_or("_") {
        none if none.eq_ignore_ascii_case("false") => alias.trim_start_matches('/').to_owned(),
        sign => alias.replace('/', sign),
    }
}

/// A SecretProviderClass of AWS. What pods see stays: the file names, by alias. Beside the fields of a secret
/// its whole value is a file too:
/// <https://github.com/aws/secrets-store-csi-driver-provider-aws/blob/main/provider/secrets_manager_provider.go>.
pub(super) fn provider_class(look: &Look<'_>) -> Vec<Match> {
    let object = look.object;
    let path = vec![key("spec"), key("provider")];
    let mut found = Match::at(path.clone()).found("aws");
    let parameters = object.node.at(&["spec", "parameters"]);
    let text = parameters.and_then(|p| p.text_at(&["objects"])).unwrap_or_default();
    let translation = parameters.and_then(|p| p.text_at(&["pathTranslation"]));
    let file = |item: &Node, name: &str| {
        let alias = item.text_at(&["objectAlias"]).filter(|alias| !alias.is_empty());
        file_name(translation, alias.unwrap_or(name))
    };
    let Ok(documents) = read(text) else {
        return vec![found.saying("its `objects` are no YAML, so that they can't be rewritten")];
    };
    let mut objects = Vec::new();
    let mut whole = Vec::new();
    for item in documents.iter().flat_map(|document| document.root.items()) {
        let Some(name) = item.text_at(&["objectName"]) else { continue };
        if let Some(version) = version(item, "objectVersion").or_else(|| version(item, "objectVersionLabel"))
        {
            return vec![found.saying(format!(
                "SecretProviderClass of AWS that reads {name} in the version {version}, which Key Vault does not know: \
                 without it, it would read the current one"
            ))];
        }
        let vault = vault_name(&look.inputs.secrets, name);
        let mode = item.text_at(&["filePermission"]);
        objects.push(vault_object(&vault, &file(item, name), mode));
        let fields = item.get("jmesPath").map_or(&[][..], Node::items);
        if !fields.is_empty() {
            whole.push(name);
        }
        for field in fields {
            let path = field.text_at(&["path"]).unwrap_or_default();
            let mode = field.text_at(&["filePermission"]).or(mode);
            let vault = field_name(&look.inputs.secrets, name, path);
            objects.push(vault_object(&vault, &file(field, path), mode));
        }
    }
    if !whole.is_empty() {
        found = found.saying(format!(
            "SecretProviderClass of AWS that mounts {} whole, beside its fields: copy it with `keep-whole = true`",
            whole.join(", ")
        ));
    }
    let vault = found.need(look.inputs.single("key-vault"));
    let tenant = found.need(look.inputs.single("tenant-id"));
    let user = look.facts.provider_users.get(&object.namespace, &object.name);
    let account = user.map_or(object.name.as_str(), String::as_str);
    let role = look.facts.roles.get(&object.namespace, account).map(String::as_str);
    let client = found.need(client_id(look, &object.namespace, account, role));
    if let (Some(vault), Some(tenant), Some(client)) = (vault, tenant, client) {
        let parameters = json!({ "usePodIdentity": "false", "clientID": client, "keyvaultName": vault,
            "tenantId": tenant, "objects": to_yaml(&json!({ "array": objects })) });
        found = found.edit(Edit::Set { path, value: "azure".into() });
        found = found.edit(Edit::Insert {
            path: vec![key("spec")],
            key: "parameters".to_owned(),
            value: parameters,
        });
    }
    vec![found]
}

/// The version or stage in `field` that is another than the current one.
fn version<'a>(item: &'a Node, field: &str) -> Option<&'a str> {
    let version = item.get(field).filter(|version| !version.is_null()).and_then(Node::text);
    version.filter(|version| !matches!(*version, "" | CURRENT))
}

/// An entry of `array`, which is YAML in YAML.
fn vault_object(name: &str, alias: &str, mode: Option<&str>) -> Value {
    let mut object = Map::from_iter([("objectName".to_owned(), Value::from(name))]);
    object.insert("objectType".to_owned(), "secret".into());
    if alias != name {
        object.insert("objectAlias".to_owned(), alias.into());
    }
    if let Some(mode) = mode {
        object.insert("filePermission".to_owned(), mode.into());
    }
    to_yaml(&Value::Object(object)).into()
}

/// A SecretStore of AWS.
pub(super) fn store(look: &Look<'_>) -> Vec<Match> {
    let path = vec![key("spec"), key("provider")];
    let aws = look.object.node.at(&["spec", "provider", "aws"]);
    let Some(aws) = aws else { return Vec::new() };
    if let Some(limit) = own_credentials(aws) {
        return vec![Match::at(path).found(limit).saying(
            "Store of External Secrets with credentials of its own: of Key Vault it would read all that External \
             Secrets itself can; name a ServiceAccount with an identity for these secrets in `auth.jwt.serviceAccountRef`",
        )];
    }
    let mut found = Match::at(path.clone()).found(aws.text_at(&["service"]).unwrap_or("aws"));
    let vault = found.need(look.inputs.single("key-vault"));
    let tenant = found.need(look.inputs.single("tenant-id"));
    if let (Some(vault), Some(tenant)) = (vault, tenant) {
        let mut azure = json!({ "authType": "WorkloadIdentity", "vaultUrl": format!("https://{vault}.vault.azure.net"),
            "tenantId": tenant });
        if let Some(account) = service_account(aws) {
            let mut account = account.to_value();
            if let Some(fields) = account.as_object_mut() {
                fields.shift_remove("audiences");
            }
            azure["serviceAccountRef"] = account;
        }
        found = found.edit(Edit::Set { path, value: json!({ "azurekv": azure }) });
    }
    vec![found]
}

/// The ServiceAccount that a store of AWS reads as.
fn service_account(aws: &Node) -> Option<&Node> {
    aws.at(&["auth", "jwt", "serviceAccountRef"]).filter(|account| !account.is_null())
}

/// What limits a store of AWS, where that is no ServiceAccount. A store of Key Vault without one is read as
/// External Secrets itself: <https://external-secrets.io/latest/provider/azure-key-vault/>.
fn own_credentials(aws: &Node) -> Option<&str> {
    if service_account(aws).is_some() {
        return None;
    }
    let role = aws.get("role").filter(|role| !role.is_null()).and_then(Node::text);
    let keys = || aws.at(&["auth", "secretRef"]).filter(|keys| !keys.is_null());
    role.filter(|role| !role.is_empty()).or_else(|| keys().map(|_| "auth.secretRef"))
}

/// Whether a store of AWS stays for a person (EKS-SEC-002).
pub(crate) fn is_kept(object: &Object<'_>) -> bool {
    object.node.at(&["spec", "provider", "aws"]).and_then(own_credentials).is_some()
}

/// What reads from such a store, or writes to it, by what Key Vault does not have: names, versions, patterns.
pub(super) fn external(look: &Look<'_>) -> Vec<Match> {
    if matches!(look.object.kind.as_str(), "PushSecret" | "ClusterPushSecret") {
        return pushed(look);
    }
    let Some((path, spec)) = inner(look, "externalSecretSpec") else { return Vec::new() };
    let mut all = Vec::new();
    for (path, item) in ["data", "dataFrom"].iter().flat_map(|list| items(spec, &path, list)) {
        let source = item.get("sourceRef");
        if source.and_then(|source| source.get("generatorRef")).is_some() {
            continue;
        }
        let own = source.and_then(|source| source.get("storeRef"));
        let Some(store) = own.or_else(|| spec.get("secretStoreRef")).and_then(|node| Store::of(look, node))
        else {
            continue;
        };
        for field in ["remoteRef", "extract"] {
            if let Some(reference) = item.get(field) {
                all.extend(renamed(look, &store, &with(&path, field), reference));
                all.extend(versioned(look, &store, &with(&path, field), reference));
            }
        }
        if item.get("find").is_some() {
            all.push(Match::at(with(&path, "find")).saying(
                "Secrets found by name or tag: in Key Vault their names are others, and so are the keys that they \
                 become; name each in `data`",
            ));
        }
    }
    all
}

/// The kind of store that is referred to.
fn kind_of(reference: &Node) -> &str {
    reference.text_at(&["kind"]).filter(|kind| !kind.is_empty()).unwrap_or("SecretStore")
}

/// A store of AWS as it is referred to.
struct Store<'a> {
    kind: &'a str,
    name: &'a str,
    /// Whether it stays for a person. What names it waits for it then.
    is_kept: bool,
}

impl<'a> Store<'a> {
    fn of(look: &Look<'_>, reference: &'a Node) -> Option<Self> {
        let kind = kind_of(reference);
        let name = reference.text_at(&["name"])?;
        let stores = look.facts.stores.all(&look.object.namespace, &format!("{kind}/{name}"));
        let is_kept = stores.iter().any(|is_kept| **is_kept);
        (!stores.is_empty()).then_some(Self { kind, name, is_kept })
    }

    /// `found` with `edit`, which is made together with the store's: its names are those of the vault from then on.
    fn edited(&self, look: &Look<'_>, mut found: Match, what: &str, edit: Edit) -> Match {
        if self.is_kept {
            let (kind, name) = (self.kind, self.name);
            return found.saying(format!("{what}, and whose {kind} {name} stays for a person (EKS-SEC-002)"));
        }
        if look.inputs.key_vault.is_some() && look.inputs.tenant_id.is_some() {
            return found.edit(edit);
        }
        found.needs.push("rewrite.key-vault".to_owned());
        found
    }
}

/// The spec of an object, or what it holds of the objects that it makes.
fn inner<'a>(look: &Look<'a>, name: &str) -> Option<(Path, &'a Node)> {
    let (path, spec) = (vec![key("spec")], look.object.node.get("spec")?);
    Some(spec.get(name).map_or_else(|| (path.clone(), spec), |inner| (with(&path, name), inner)))
}

/// A name that Key Vault does not allow.
fn renamed(look: &Look<'_>, store: &Store<'_>, path: &Path, reference: &Node) -> Option<Match> {
    let name = reference.text_at(&["key"])?;
    let new = vault_name(&look.inputs.secrets, name);
    let path = with(path, "key");
    let found = Match::at(path.clone()).found(name);
    let edit = Edit::Set { path, value: new.clone().into() };
    (new != name).then(|| store.edited(look, found, "Name that Key Vault does not allow", edit))
}

/// A version of AWS. The current one is what is read where none is named.
fn versioned(look: &Look<'_>, store: &Store<'_>, path: &Path, reference: &Node) -> Option<Match> {
    let named = reference.text_at(&["version"]).filter(|version| !version.is_empty())?;
    let path = with(path, "version");
    let found = Match::at(path.clone()).found(named);
    Some(if named == CURRENT {
        store.edited(look, found, "Version that Key Vault does not know", Edit::Delete { path })
    } else {
        found.saying(
            "Version that Key Vault does not know: name one of the vault, or none for the current one",
        )
    })
}

/// What writes to a store of AWS. A selector by labels may mean any of its kind.
fn pushed(look: &Look<'_>) -> Vec<Match> {
    let Some((path, spec)) = inner(look, "pushSecretSpec") else { return Vec::new() };
    let stores = items(spec, &path, "secretStoreRefs").into_iter();
    let is_aws = |store: &Node| {
        let kind = kind_of(store);
        let is_meant = |name: &str| name.split_once('/').is_some_and(|(of, _)| of == kind);
        let is_named = store.get("name").is_some();
        let is_any = || !is_named && look.facts.stores.iter().any(|(_, name, _)| is_meant(name));
        Store::of(look, store).is_some() || is_any()
    };
    let told = stores.filter(|(_, store)| is_aws(store)).map(|(path, store)| {
        let found = Match::at(path).saying(
            "What is pushed to AWS: its `remoteKey` must be a name that Key Vault allows, and the store's identity may \
             have to write secrets",
        );
        match store.text_at(&["name"]) {
            Some(name) => found.found(name),
            None => found,
        }
    });
    told.collect()
}
