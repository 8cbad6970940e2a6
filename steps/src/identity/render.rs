//! The plan as az commands, as Bicep and as Terraform. Pure.
//!
//! Invariant: what comes from elsewhere (names of roles, ARNs) is quoted for the language that it
//! stands in, or is in a comment of one line.

use std::fmt::Write as _;

use super::iam::Access;
use super::plan::Identity;

/// Where the identities are made, and whom they trust.
pub(crate) struct Place<'a> {
    pub resource_group: &'a str,
    pub location: &'a str,
    pub issuer: &'a str,
}

/// What a token of a service account is for.
pub(super) const AUDIENCE: &str = "api://AzureADTokenExchange";

/// A word of a POSIX shell.
fn shell(text: &str) -> String {
    format!("'{}'", text.replace('\'', r"'\''"))
}

/// What a string of one line can't hold as it is, as `code` writes it.
fn one_line(text: &str, code: impl Fn(u32) -> String) -> String {
    let written = |c: char| match c {
        '\n' => r"\n".to_owned(),
        '\r' => r"\r".to_owned(),
        '\t' => r"\t".to_owned(),
        c if c.is_control() => code(u32::from(c)),
        c => c.to_string(),
    };
    text.chars().map(written).collect()
}

/// A string of Bicep.
/// <https://learn.microsoft.com/azure/azure-resource-manager/bicep/data-types#strings>
fn bicep_text(text: &str) -> String {
    let text = text.replace('\\', r"\\").replace('\'', r"\'").replace("${", r"\${");
    format!("'{}'", one_line(&text, |code| format!("\\u{{{code:x}}}")))
}

/// A string of Terraform. <https://developer.hashicorp.com/terraform/language/expressions/strings>
fn terraform_text(text: &str) -> String {
    let text = text.replace('\\', r"\\").replace('"', "\\\"").replace("${", "$${").replace("%{", "%%{");
    format!("\"{}\"", one_line(&text, |code| format!("\\u{code:04x}")))
}

/// An identity's name, which has letters, digits and hyphens, as one in Bicep and Terraform.
fn symbol(name: &str) -> String {
    let name: String = name.chars().map(|c| if c.is_ascii_alphanumeric() { c } else { '_' }).collect();
    if name.starts_with(|c: char| c.is_ascii_digit()) { format!("_{name}") } else { name }
}

/// In a comment nothing ends the line.
fn comment(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect()
}

/// The proposals, as comments that begin with `mark`.
fn proposals(out: &mut String, access: Option<&Access>, mark: &str) {
    let Some(access) = access else { return };
    for proposal in &access.proposals {
        let (actions, resources) = (proposal.actions.join(", "), proposal.resources.join(", "));
        let _ = writeln!(
            out,
            "{mark} proposed: {} for {} on {}",
            proposal.role,
            comment(&actions),
            comment(&resources)
        );
    }
    for open in &access.open {
        let _ = writeln!(out, "{mark} by hand: {}", comment(open));
    }
}

/// A script of az commands. Run twice it changes nothing more; assignments of roles are comments, since
/// their scopes are for a person to choose.
pub(crate) fn az(identities: &[Identity], place: &Place<'_>) -> String {
    let mut out = "#!/bin/sh\n# Managed identities for what had IAM roles. Written by migrate; read it before you run it.\nset -eu\n".to_owned();
    let group = shell(place.resource_group);
    for identity in identities {
        let name = shell(&identity.name);
        let _ = writeln!(out, "\n# {}", comment(&identity.role_arn));
        let _ = writeln!(
            out,
            "az identity create --name {name} --resource-group {group} --location {} --output none",
            shell(place.location)
        );
        for account in &identity.accounts {
            let _ = writeln!(
                out,
                "az identity federated-credential create --name {} --identity-name {name} --resource-group {group} \\\n  \
                 --issuer {} --subject {} --audiences {AUDIENCE} --output none",
                shell(&account.credential()),
                shell(place.issuer),
                shell(&account.subject()),
            );
        }
        proposals(&mut out, identity.access.as_ref(), "#");
        for proposal in identity.access.iter().flat_map(|access| &access.proposals) {
            let principal = format!(
                "\"$(az identity show --name {name} --resource-group {group} --query principalId --output tsv)\""
            );
            let command = if proposal.role.starts_with("Cosmos DB ") {
                format!(
                    "az cosmosdb sql role assignment create --account-name ACCOUNT --resource-group {group} --role-definition-name {} --principal-id {principal} --scope SCOPE",
                    shell(&proposal.role)
                )
            } else {
                format!(
                    "az role assignment create --assignee-object-id {principal} --assignee-principal-type ServicePrincipal --role {} --scope SCOPE",
                    shell(&proposal.role)
                )
            };
            let _ = writeln!(out, "# {command}");
        }
    }
    out.push_str("\n# For migration.toml:\necho '[rewrite.identities]'\n");
    for identity in identities {
        let _ = writeln!(
            out,
            "id=$(az identity show --name {} --resource-group {group} --query clientId --output tsv)",
            shell(&identity.name)
        );
        for account in &identity.accounts {
            let _ = writeln!(
                out,
                "echo \"\\\"{}/{}\\\" = \\\"$id\\\"\"",
                account.namespace, account.service_account
            );
        }
    }
    out
}

/// A Bicep file.
pub(crate) fn bicep(identities: &[Identity], place: &Place<'_>) -> String {
    let mut out = "// Managed identities for what had IAM roles. Written by migrate.\n".to_owned();
    let _ = writeln!(out, "param location string = {}", bicep_text(place.location));
    let _ = writeln!(out, "param issuer string = {}", bicep_text(place.issuer));
    for identity in identities {
        let symbol = symbol(&identity.name);
        let _ = writeln!(out, "\n// {}", comment(&identity.role_arn));
        let _ = writeln!(
            out,
            "resource {symbol} 'Microsoft.ManagedIdentity/userAssignedIdentities@2023-01-31' = {{\n  name: {}\n  location: location\n}}",
            bicep_text(&identity.name)
        );
        let _ = writeln!(out, "\nvar {symbol}_accounts = [");
        for account in &identity.accounts {
            let _ = writeln!(
                out,
                "  {{ name: {}, subject: {} }}",
                bicep_text(&account.credential()),
                bicep_text(&account.subject())
            );
        }
        // Azure takes credentials of one identity one after another only.
        let _ = writeln!(
            out,
            "]\n\n@batchSize(1)\nresource {symbol}_credentials 'Microsoft.ManagedIdentity/userAssignedIdentities/federatedIdentityCredentials@2023-01-31' = [for account in {symbol}_accounts: {{\n  parent: {symbol}\n  name: account.name\n  properties: {{\n    issuer: issuer\n    subject: account.subject\n    audiences: [ '{AUDIENCE}' ]\n  }}\n}}]"
        );
        proposals(&mut out, identity.access.as_ref(), "//");
        let _ = writeln!(out, "\noutput {symbol}_client_id string = {symbol}.properties.clientId");
    }
    out
}

/// A Terraform file, for version 5 of the provider, which names a credential's parent otherwise than version 4 did:
/// <https://registry.terraform.io/providers/hashicorp/azurerm/5.12.0/docs/resources/federated_identity_credential>.
pub(crate) fn terraform(identities: &[Identity], place: &Place<'_>) -> String {
    let mut out =
        "# Managed identities for what had IAM roles. Written by migrate.\n# For azurerm 5.0 or newer.\n"
            .to_owned();
    for identity in identities {
        let symbol = symbol(&identity.name);
        let _ = writeln!(out, "\n# {}", comment(&identity.role_arn));
        let _ = writeln!(
            out,
            "resource \"azurerm_user_assigned_identity\" \"{symbol}\" {{\n  name                = {}\n  resource_group_name = {}\n  location            = {}\n}}",
            terraform_text(&identity.name),
            terraform_text(place.resource_group),
            terraform_text(place.location)
        );
        for account in &identity.accounts {
            let name = account.credential();
            let _ = writeln!(
                out,
                "\nresource \"azurerm_federated_identity_credential\" \"{symbol}_{}\" {{\n  name                      = {}\n  user_assigned_identity_id = azurerm_user_assigned_identity.{symbol}.id\n  issuer                    = {}\n  subject                   = {}\n  audience                  = [\"{AUDIENCE}\"]\n}}",
                name,
                terraform_text(&name),
                terraform_text(place.issuer),
                terraform_text(&account.subject())
            );
        }
        proposals(&mut out, identity.access.as_ref(), "#");
        let _ = writeln!(
            out,
            "\noutput \"{symbol}_client_id\" {{\n  value = azurerm_user_assigned_identity.{symbol}.client_id\n}}"
        );
    }
    out
}

#[cfg(test)]
mod tests {
    use hcl_edit::expr::Expression;
    use hcl_edit::template::Element;

    use super::super::plan::Association;
    use super::*;

    /// With names that mean something to each language.
    const NASTY: &str = "a'b\"c${x}%{y}\\`id`$(id)\nd";

    #[test]
    fn words_of_others_are_words_in_every_language() {
        assert_eq!(shell("a'b$(id)"), r"'a'\''b$(id)'");
        assert_eq!(bicep_text("a'b${x}\\"), r"'a\'b\${x}\\'");
        assert_eq!(terraform_text("a\"${x}%{y}\\"), "\"a\\\"$${x}%%{y}\\\\\"");
        assert_eq!(bicep_text("a\n\t\u{1}"), r"'a\n\t\u{1}'");
        assert_eq!(terraform_text("a\n\t\u{1}"), r#""a\n\t\u0001""#);
        assert!(!comment(NASTY).contains('\n'));
    }

    /// What an expression says, as a parser of HCL reads it: text only, nothing that Terraform would evaluate.
    fn said(expression: &Expression) -> String {
        if let Some(text) = expression.as_str() {
            return text.to_owned();
        }
        let template = expression.as_string_template().expect("a string");
        let literal = |element: &Element| match element {
            Element::Literal(text) => text.replace("$${", "${").replace("%%{", "%{"),
            other => panic!("{other:?} is evaluated"),
        };
        template.iter().map(literal).collect()
    }

    /// The grammar alone, by `hcl-edit`: Terraform and its provider can't be had where this is built.
    #[test]
    fn terraform_is_hcl_and_says_what_is_meant() {
        let account = Association {
            namespace: "shop".to_owned(),
            service_account: "web.1".to_owned(),
            role_arn: format!("arn:aws:iam::1:role/{NASTY}"),
        };
        let identity = Identity {
            name: "1-web".to_owned(),
            role_arn: account.role_arn.clone(),
            accounts: vec![account],
            access: None,
        };
        let place = Place { resource_group: NASTY, location: "eastus", issuer: NASTY };
        let text = terraform(&[identity], &place);
        let body = hcl_edit::parser::parse_body(&text).unwrap_or_else(|e| panic!("{e}\n{text}"));
        let blocks: Vec<_> = body.blocks().map(|block| (block.ident.to_string(), block)).collect();
        let kinds: Vec<&str> = blocks.iter().map(|(kind, _)| kind.trim()).collect();
        assert_eq!(kinds, ["resource", "resource", "output"]);
        let value = |at: usize, name: &str| said(&blocks[at].1.body.get_attribute(name).expect(name).value);
        assert_eq!(
            (value(0, "name"), value(0, "resource_group_name")),
            ("1-web".to_owned(), NASTY.to_owned())
        );
        assert_eq!((value(1, "name"), value(1, "issuer")), ("shop_web__1".to_owned(), NASTY.to_owned()));
        let fields = |at: usize| -> Vec<String> {
            blocks[at].1.body.attributes().map(|attribute| attribute.key.trim().to_owned()).collect()
        };
        // All that version 5 takes of these, and what it asks for.
        assert_eq!(fields(0), ["name", "resource_group_name", "location"]);
        assert_eq!(fields(1), ["name", "user_assigned_identity_id", "issuer", "subject", "audience"]);
        assert_eq!(value(1, "subject"), "system:serviceaccount:shop:web.1");
    }

    #[test]
    fn a_shell_reads_the_script_as_it_is_meant() {
        let account = Association {
            namespace: "shop".to_owned(),
            service_account: "web".to_owned(),
            role_arn: format!("arn:aws:iam::1:role/{NASTY}"),
        };
        let identity = Identity {
            name: "web".to_owned(),
            role_arn: account.role_arn.clone(),
            accounts: vec![account],
            access: None,
        };
        let place =
            Place { resource_group: NASTY, location: "eastus", issuer: "https://issuer.example/it's" };
        let script = az(&[identity], &place);
        // `az` says what it was given, word by word.
        let program = format!("az() {{ printf '<%s>' \"$@\" >&2; echo >&2; echo 11-22; }}\n{script}");
        let output = std::process::Command::new("sh").args(["-c", &program]).output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let calls = String::from_utf8(output.stderr).unwrap();
        assert!(calls.contains(&format!("<--resource-group><{NASTY}>")), "{calls}");
        assert!(
            calls.contains(
                "<--issuer><https://issuer.example/it's><--subject><system:serviceaccount:shop:web>"
            ),
            "{calls}"
        );
        assert_eq!(
            String::from_utf8(output.stdout).unwrap(),
            "11-22\n11-22\n[rewrite.identities]\n\"shop/web\" = \"11-22\"\n"
        );
    }
}
