//! IAM's query protocol as a strict stand-in of ours, which pages and denies. moto speaks it too: see
//! `tests/sandbox_secrets.rs` for what runs against it.

use std::sync::Arc;

use migrate_plugin_api::testing::RecordingHost;
use wiremock::{Mock, MockServer, Request, Respond, ResponseTemplate};

use super::*;

const ROLE: &str = "arn:aws:iam::123456789012:role/team/web";

struct Stand;

impl Respond for Stand {
    fn respond(&self, request: &Request) -> ResponseTemplate {
        let fields: BTreeMap<String, String> =
            url::form_urlencoded::parse(&request.body).into_owned().collect();
        let signed = request.headers["authorization"].to_str().unwrap();
        assert!(signed.contains("/us-east-1/iam/aws4_request") && fields["Version"] == VERSION, "{signed}");
        let field = |name: &str| fields.get(name).map_or("", String::as_str);
        let encoded = |json: &str| {
            url::form_urlencoded::byte_serialize(json.as_bytes()).collect::<String>().replace('+', "%20")
        };
        let body = match (field("Action"), field("RoleName"), field("PolicyArn")) {
            ("GetRole", "web", _) => format!(
                "<Role><RoleName>web</RoleName><Arn>{ROLE}</Arn><PermissionsBoundary><PermissionsBoundaryType>Policy\
                 </PermissionsBoundaryType><PermissionsBoundaryArn>arn:aws:iam::1:policy/b</PermissionsBoundaryArn>\
                 </PermissionsBoundary></Role>"
            ),
            ("GetRole", "other", _) => "<Role><Arn>arn:aws:iam::999999999999:role/other</Arn></Role>".to_owned(),
            ("ListRolePolicies", "web", _) => {
                "<PolicyNames><member>own &amp; only</member></PolicyNames><IsTruncated>false</IsTruncated>".to_owned()
            }
            ("GetRolePolicy", "web", _) if field("PolicyName") == "own & only" => {
                let json = r#"{"Statement":{"Effect":"Allow","Action":"s3:GetObject","Resource":"arn:aws:s3:::a+b&c=d/*"}}"#;
                format!("<PolicyDocument>{}</PolicyDocument>", encoded(json))
            }
            ("ListAttachedRolePolicies", "web", _) => match field("Marker") {
                "" => "<AttachedPolicies><member><PolicyName>q</PolicyName><PolicyArn>arn:aws:iam::1:policy/q</PolicyArn></member>\
                    </AttachedPolicies><IsTruncated>true</IsTruncated><Marker>next</Marker>".to_owned(),
                _ => "<AttachedPolicies><member><PolicyArn>arn:aws:iam::1:policy/denied</PolicyArn></member></AttachedPolicies>\
                    <IsTruncated>false</IsTruncated>".to_owned(),
            },
            ("GetPolicy", _, "arn:aws:iam::1:policy/q") => "<Policy><DefaultVersionId>v7</DefaultVersionId></Policy>".to_owned(),
            ("GetPolicyVersion", _, "arn:aws:iam::1:policy/q") if field("VersionId") == "v7" => {
                let json = r#"{"Statement":[{"Effect":"Allow","Action":["sqs:SendMessage"],"Resource":"*"}]}"#;
                format!("<PolicyVersion><Document>{}</Document></PolicyVersion>", encoded(json))
            }
            ("GetPolicy", ..) => return denied(403, "AccessDenied"),
            _ => return denied(404, "NoSuchEntity"),
        };
        ResponseTemplate::new(200).set_body_string(format!(
            "<Response xmlns=\"https://iam.amazonaws.com/doc/2010-05-08/\">{body}</Response>"
        ))
    }
}

fn denied(status: u16, code: &str) -> ResponseTemplate {
    let body = format!(
        "<ErrorResponse><Error><Type>Sender</Type><Code>{code}</Code><Message>no</Message></Error></ErrorResponse>"
    );
    ResponseTemplate::new(status).set_body_string(body)
}

#[tokio::test]
async fn own_and_attached_policies_of_each_role_are_read_and_what_is_not_is_told() {
    let server = MockServer::start().await;
    Mock::given(wiremock::matchers::method("POST")).respond_with(Stand).mount(&server).await;
    let folder = tempfile::tempdir().unwrap();
    let file = "[default]\naws_access_key_id = a\naws_secret_access_key = b\n";
    std::fs::write(folder.path().join("credentials"), file).unwrap();
    let ctx = Arc::new(RecordingHost::default()).context("map", folder.path());
    let access = serde_json::json!({ "region": "eu-west-1", "credentials-file": "credentials", "iam-endpoint": server.uri() });
    let access: AwsAccess = serde_json::from_value(access).unwrap();
    let (other, gone) = ("arn:aws:iam::123456789012:role/other", "arn:aws:iam::123456789012:role/gone");
    let account = account(&ctx, &access, &[ROLE, other, gone].into()).await.unwrap();

    let found = account.access(ROLE).unwrap();
    let proposals: Vec<_> =
        found.proposals.iter().map(|p| (p.role.as_str(), p.resources.join(" "))).collect();
    assert_eq!(
        proposals,
        [
            ("Azure Service Bus Data Sender", "*".to_owned()),
            ("Storage Blob Data Reader", "arn:aws:s3:::a+b&c=d/*".to_owned())
        ]
    );
    assert_eq!(
        found.open,
        [
            "a permissions boundary is not carried over: arn:aws:iam::1:policy/b",
            "policy arn:aws:iam::1:policy/denied could not be read (AccessDenied)"
        ]
    );
    assert!(account.access(other).unwrap().open[0].contains("is of another account"));
    assert!(account.access(gone).unwrap().open[0].contains("could not be read (NoSuchEntity)"));
}
