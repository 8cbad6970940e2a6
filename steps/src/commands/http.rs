//! `http`: a request to a service as a node.
//!
//! `GET`, `HEAD`, `PUT` and `DELETE` are the same twice as once (RFC 9110, 9.2.2). What came of
//! another request whose answer was not seen is not known: it is sent again only with a header that
//! carries the node's key, or on its author's word.

use std::collections::BTreeMap;
use std::time::Duration;

use http::header::{AUTHORIZATION, CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue};
use migrate_plugin_api::{
    Check, CheckStatus, ErrorClass, Evidence, Idempotency, PlanConfig, Problem, Secret, SecretRef,
    StepContext, StepError, StepPlan, TypedObservation, TypedStep, VerifyDepth, async_trait,
};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use url::Url;

use super::answer::{Answer, Expect};
use super::exec::secrets;
use super::mask::Mask;
use super::request::{Failure, Redirects, Request, is_refusal, shown};
use super::{Effect, KEPT_BYTES, Missing, Repeated, left};
use crate::duration::Span;

/// A service that has not answered after this long won't.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(60);

/// `http`.
pub(crate) struct Http;

/// What is done with the resource.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "UPPERCASE")]
pub(crate) enum Method {
    #[default]
    Get,
    Head,
    Put,
    Delete,
    Post,
    Patch,
}

/// `with` of `http`.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub(crate) struct Config {
    /// Where to: `https://…`
    pub url: Url,
    /// GET, HEAD, PUT, DELETE, POST or PATCH; default: GET
    #[serde(default)]
    pub method: Method,
    /// Headers
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub headers: BTreeMap<String, String>,
    /// Headers that hold secrets: `{ X-Api-Key = "env:API_KEY" }`
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub secret_headers: BTreeMap<String, SecretRef>,
    /// A token for `Authorization: Bearer`
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bearer: Option<SecretRef>,
    /// The body as JSON
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub json: Option<Value>,
    /// The body as text, instead of `json`
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub body: Option<String>,
    /// Who may answer a GET or HEAD that is redirected: `same-origin` (the same name with TLS, too) or `any`;
    /// default: same-origin
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub redirects: Option<Redirects>,
    /// What the answer must be; default: a status from 200 to 299
    #[serde(default)]
    pub expect: Expect,
    /// A header that gets the node's key, where it makes repeating harmless: `Idempotency-Key`
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub idempotency_key_header: Option<String>,
    /// What sending it twice means: `none`, `natural` or `keyed`; default: by method and key header
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub idempotency: Option<Repeated>,
    /// How long the whole answer may take; default: 60s
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub answer_timeout: Option<Span>,
}

/// What was answered.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub(crate) struct Outputs {
    /// The status
    pub status: u16,
    /// The answer as text, at most the first 64 KiB
    pub body: String,
    /// Whether it was longer than that
    pub body_truncated: bool,
    /// The answer as JSON; null where it is none, or is truncated
    pub json: Value,
}

/// How an attempt ended, where that was seen.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Seen {
    attempt: u32,
    end: End,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum End {
    NotSent,
    Refused,
    Answered(u16),
}

impl Config {
    fn method(&self) -> http::Method {
        match self.method {
            Method::Get => http::Method::GET,
            Method::Head => http::Method::HEAD,
            Method::Put => http::Method::PUT,
            Method::Delete => http::Method::DELETE,
            Method::Post => http::Method::POST,
            Method::Patch => http::Method::PATCH,
        }
    }

    fn is_read(&self) -> bool {
        matches!(self.method, Method::Get | Method::Head)
    }

    fn repeated(&self) -> Repeated {
        match self.idempotency {
            Some(said) => said,
            None if self.method().is_idempotent() => Repeated::Natural,
            None if self.idempotency_key_header.is_some() => Repeated::Keyed,
            None => Repeated::None,
        }
    }

    fn name(&self) -> String {
        format!("{} {}", self.method(), shown(&self.url))
    }

    /// Everything that can be said without asking anybody.
    fn problems(&self) -> Vec<Problem> {
        let mut problems = url_problems(&self.url);
        if self.json.is_some() && self.body.is_some() {
            problems.push(Problem::error("there can be `json` or `body`, not both").in_field("body"));
        }
        problems.extend(self.own_headers().problems());
        problems.extend(expect_problems(&self.expect, self.method));
        problems
    }

    fn own_headers(&self) -> Headers<'_> {
        Headers {
            plain: &self.headers,
            secret: &self.secret_headers,
            key: self.idempotency_key_header.as_ref(),
            has_bearer: self.bearer.is_some(),
        }
    }

    /// The headers, and the secrets in them.
    async fn headers(&self, ctx: &StepContext) -> Result<(HeaderMap, Vec<Secret>), StepError> {
        let mut headers = self.own_headers().plain()?;
        let mut known = Vec::new();
        for (name, secret) in secrets(ctx, &self.secret_headers).await? {
            headers.insert(header_name(&name)?, hidden(&name, secret.expose())?);
            known.push(secret);
        }
        if let Some(reference) = &self.bearer {
            let secret = ctx.secret(reference).await?;
            headers.insert(AUTHORIZATION, hidden("Authorization", &format!("Bearer {}", secret.expose()))?);
            known.push(secret);
        }
        if let Some(name) = &self.idempotency_key_header {
            headers.insert(header_name(name)?, hidden(name, ctx.key.as_str())?);
        }
        if self.json.is_some() && !headers.contains_key(CONTENT_TYPE) {
            headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        }
        Ok((headers, known))
    }

    async fn send(&self, ctx: &StepContext) -> Result<Answer, Failure> {
        if let Some(problem) = self.problems().into_iter().next() {
            return Err(Failure::NotSent(StepError::permanent(problem.message)));
        }
        let (headers, known) = self.headers(ctx).await.map_err(Failure::NotSent)?;
        let mask = Mask::new(&known);
        let request = Request {
            method: self.method(),
            url: self.url.clone(),
            headers,
            body: self
                .json
                .as_ref()
                .map(Value::to_string)
                .or_else(|| self.body.clone())
                .map(String::into_bytes),
            timeout: self.answer_timeout.map_or(ANSWER_TIMEOUT, |span| span.0),
            expected: &self.expect.status,
            redirects: self.redirects.unwrap_or_default(),
            mask: &mask,
        };
        tokio::select! {
            answer = request.send() => answer,
            () = ctx.cancel.cancelled() => Err(Failure::NoAnswer(StepError::cancelled())),
        }
    }
}

/// What a request says of its headers.
struct Headers<'a> {
    plain: &'a BTreeMap<String, String>,
    secret: &'a BTreeMap<String, SecretRef>,
    key: Option<&'a String>,
    has_bearer: bool,
}

impl Headers<'_> {
    fn plain(&self) -> Result<HeaderMap, StepError> {
        let mut headers = HeaderMap::new();
        for (name, value) in self.plain {
            let value = HeaderValue::from_str(value).map_err(|_| {
                StepError::permanent(format!("header `{name}` has a value that can't be sent"))
            })?;
            headers.insert(header_name(name)?, value);
        }
        for name in self.secret.keys().chain(self.key) {
            header_name(name)?;
        }
        Ok(headers)
    }

    fn problems(&self) -> Vec<Problem> {
        let mut problems = Vec::new();
        if let Err(e) = self.plain() {
            problems.push(Problem::error(e.message).in_field("headers"));
        }
        let mut names = std::collections::BTreeSet::new();
        let all = self.plain.keys().chain(self.secret.keys());
        let all = all.chain(self.key).map(|name| name.to_ascii_lowercase());
        let bearer = self.has_bearer.then(|| AUTHORIZATION.to_string());
        for name in all.chain(bearer).filter(|name| !names.insert(name.clone())) {
            problems.push(Problem::error(format!("header `{name}` is given twice")).in_field("headers"));
        }
        problems
    }
}

fn url_problems(url: &Url) -> Vec<Problem> {
    let mut problems = Vec::new();
    if !matches!(url.scheme(), "http" | "https") {
        problems.push(Problem::error("it is no web address").in_field("url"));
    }
    if !url.username().is_empty() || url.password().is_some() {
        let hint = "put the reference of a secret into `bearer` or `secret-headers`";
        problems.push(Problem::error("the address holds credentials").in_field("url").with_hint(hint));
    }
    problems
}

fn expect_problems(expect: &Expect, method: Method) -> Vec<Problem> {
    let mut problems = Vec::new();
    for pointer in expect.json.keys().filter(|p| !p.is_empty() && !p.starts_with('/')) {
        let message = format!("`{pointer}` is no JSON Pointer: it begins with `/`");
        problems.push(Problem::error(message).in_field("expect"));
    }
    if method == Method::Head && !expect.json.is_empty() {
        problems.push(Problem::error("an answer to HEAD has no JSON").in_field("expect"));
    }
    problems
}

/// The plan of a request of which only a part is known yet.
async fn plan_part(ctx: &StepContext, config: &PlanConfig<Config>) -> Result<StepPlan, StepError> {
    let url = config.field::<Url>("url")?;
    let method = config.field::<Method>("method")?.unwrap_or_default();
    let expect = config.field::<Expect>("expect")?.unwrap_or_default();
    let plain = config.part("headers")?.unwrap_or_default();
    let secret: BTreeMap<String, SecretRef> = config.part("secret-headers")?.unwrap_or_default();
    let (bearer, key) = (config.field::<SecretRef>("bearer")?, config.field("idempotency-key-header")?);
    let own = Headers { plain: &plain, secret: &secret, key: key.as_ref(), has_bearer: bearer.is_some() };

    let to = url.as_ref().map_or_else(|| "a service".to_owned(), shown);
    let mut plan = StepPlan::new(format!("send a request to {to}"));
    plan.problems.extend(url.iter().flat_map(url_problems));
    plan.problems.extend(own.problems());
    plan.problems.extend(expect_problems(&expect, method));
    plan.problems.extend(Missing::MayCome.secrets(ctx, secret.values(), "secret-headers").await);
    plan.problems.extend(Missing::MayCome.secrets(ctx, &bearer, "bearer").await);
    if method == Method::Delete {
        plan.destroys.push(to);
    }
    Ok(plan)
}

fn header_name(name: &str) -> Result<HeaderName, StepError> {
    name.parse().map_err(|_| StepError::permanent(format!("`{name}` is no name of a header")))
}

/// A value that no `Debug` shows.
fn hidden(name: &str, value: &str) -> Result<HeaderValue, StepError> {
    let mut value = HeaderValue::from_str(value.trim())
        .map_err(|_| StepError::auth(format!("the secret of header `{name}` can't be sent in one")))?;
    value.set_sensitive(true);
    Ok(value)
}

#[async_trait]
impl TypedStep for Http {
    const NAME: &'static str = "http";
    const SUMMARY: &'static str = "Sends a request to a service over HTTP";
    // The contract knows one answer for a step, so it is the careful one; where the request says more,
    // `observe` says that sending it again is harmless.
    const IDEMPOTENCY: Idempotency = Idempotency::None;

    type Config = Config;
    type Outputs = Outputs;

    async fn plan(&self, ctx: &StepContext, config: &PlanConfig<Config>) -> Result<StepPlan, StepError> {
        let Some(known) = config.known() else { return plan_part(ctx, config).await };
        let mut plan = StepPlan::new(known.name());
        plan.problems = known.problems();
        if let Err(e) = known.headers(ctx).await
            && plan.problems.is_empty()
        {
            let mut problem = Problem::error(e.message).in_field("secret-headers");
            problem.hint = e.hint;
            plan.problems.push(problem);
        }
        if known.method == Method::Delete {
            plan.destroys.push(shown(&known.url));
        }
        Ok(plan)
    }

    async fn observe(
        &self,
        ctx: &StepContext,
        config: &Config,
    ) -> Result<TypedObservation<Outputs>, StepError> {
        let seen = ctx.cursor::<Seen>()?.filter(|seen| seen.attempt == ctx.attempt).map(|seen| seen.end);
        let name = config.name();
        let effect = match seen {
            Some(End::NotSent | End::Refused) => Effect::None,
            Some(End::Answered(status)) => Effect::Unclear(format!("`{name}` was answered with {status}")),
            None => Effect::Unclear(format!("the answer to `{name}` was not seen")),
        };
        Ok(left(ctx, config.repeated(), effect))
    }

    async fn apply(&self, ctx: &StepContext, config: &Config) -> Result<Outputs, StepError> {
        let seen = |end| Seen { attempt: ctx.attempt, end };
        let answer = match config.send(ctx).await {
            Ok(answer) => answer,
            Err(Failure::NotSent(error)) => {
                ctx.checkpoint(&seen(End::NotSent)).await?;
                return Err(error);
            }
            Err(Failure::NoAnswer(error)) => return Err(error),
        };
        if let Err(error) = answer.judge(&config.expect, config.is_read()) {
            let is_refused =
                is_refusal(answer.status) && !matches!(error.class, ErrorClass::Transient { .. });
            let end = if is_refused { End::Refused } else { End::Answered(answer.status.as_u16()) };
            ctx.checkpoint(&seen(end)).await?;
            return Err(error);
        }
        ctx.info(format!("`{}` was answered with {}", answer.name, answer.status));
        Ok(Outputs {
            status: answer.status.as_u16(),
            json: answer.json(),
            body: answer.text,
            body_truncated: answer.is_cut,
        })
    }

    async fn verify(
        &self,
        ctx: &StepContext,
        config: &Config,
        outputs: &Outputs,
        _: VerifyDepth,
    ) -> Result<Evidence, StepError> {
        let mut checks = if config.is_read() {
            match config.send(ctx).await {
                Ok(answer) => match answer.unusable(&config.expect) {
                    Some(error) => return Err(error),
                    None => answer.checks(&config.expect),
                },
                Err(Failure::NotSent(error) | Failure::NoAnswer(error)) => return Err(error),
            }
        } else {
            let status = outputs.status.to_string();
            let note = "as it was answered; nothing was looked at, since a request that changes something is not \
                        sent again for that";
            let check = Check::equal(config.name(), "status", &status, &status).with_note(note);
            vec![Check { status: CheckStatus::Warning, ..check }]
        };
        if outputs.body_truncated {
            checks.push(Check {
                subject: config.name(),
                what: "body".to_owned(),
                source: format!("at most {KEPT_BYTES} bytes"),
                target: "more".to_owned(),
                status: CheckStatus::Warning,
                note: Some("the output `body` has only the beginning".to_owned()),
            });
        }
        Ok(Evidence { checks })
    }
}
