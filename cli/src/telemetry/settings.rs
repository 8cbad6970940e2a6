//! The standard environment variables of OpenTelemetry, as far as they concern traces over HTTP.

use std::time::Duration;

/// What the specification says where nothing is set.
const DEFAULT_TIMEOUT: Duration = Duration::from_secs(10);

/// Where traces go and how. Has no `Debug`: headers hold credentials.
pub struct Settings {
    /// The full URL for traces.
    pub endpoint: String,
    /// Of each request.
    pub headers: Vec<(String, String)>,
    pub timeout: Duration,
    /// What describes this program.
    pub resource: Vec<(String, String)>,
}

impl Settings {
    /// `None` when no collector is named, or when it is switched off.
    pub fn read(variable: impl Fn(&str) -> Option<String>) -> Result<Option<Self>, String> {
        let variable = |name: &str| variable(name).filter(|value| !value.is_empty());
        let either = |name: &str| {
            variable(&format!("OTEL_EXPORTER_OTLP_TRACES_{name}"))
                .or_else(|| variable(&format!("OTEL_EXPORTER_OTLP_{name}")))
        };
        let is_off = variable("OTEL_SDK_DISABLED").is_some_and(|value| value.eq_ignore_ascii_case("true"));
        if is_off || variable("OTEL_TRACES_EXPORTER").is_some_and(|value| value == "none") {
            return Ok(None);
        }
        let whole = variable("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT");
        let base = variable("OTEL_EXPORTER_OTLP_ENDPOINT");
        let base = base.map(|base| format!("{}/v1/traces", base.trim_end_matches('/')));
        let Some(endpoint) = whole.or(base) else { return Ok(None) };
        if !endpoint.starts_with("http://") && !endpoint.starts_with("https://") {
            return Err("OTEL_EXPORTER_OTLP_ENDPOINT is no http:// or https:// URL".to_owned());
        }
        if let Some(protocol) = either("PROTOCOL").filter(|protocol| protocol != "http/protobuf") {
            return Err(format!(
                "OTEL_EXPORTER_OTLP_PROTOCOL is `{protocol}`; only `http/protobuf` is spoken"
            ));
        }
        let timeout = either("TIMEOUT").and_then(|text| text.parse().ok()).map(Duration::from_millis);
        let mut resource = pairs(&variable("OTEL_RESOURCE_ATTRIBUTES").unwrap_or_default());
        let named = variable("OTEL_SERVICE_NAME");
        if let Some(name) = &named {
            resource.retain(|(key, _)| key != "service.name");
            resource.push(("service.name".to_owned(), name.clone()));
        } else if !resource.iter().any(|(key, _)| key == "service.name") {
            resource.push(("service.name".to_owned(), "migrate".to_owned()));
        }
        resource.push(("service.version".to_owned(), env!("CARGO_PKG_VERSION").to_owned()));
        let headers = pairs(&either("HEADERS").unwrap_or_default());
        Ok(Some(Self { endpoint, headers, timeout: timeout.unwrap_or(DEFAULT_TIMEOUT), resource }))
    }
}

/// `a=b,c=d`, with `%XX` in values.
fn pairs(text: &str) -> Vec<(String, String)> {
    let pair = |pair: &str| {
        let (name, value) = pair.split_once('=')?;
        Some((name.trim().to_owned(), decoded(value.trim())))
    };
    text.split(',').filter_map(pair).filter(|(name, _)| !name.is_empty()).collect()
}

fn decoded(text: &str) -> String {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((&first, after)) = rest.split_first() {
        let code = after.get(..2).filter(|_| first == b'%').and_then(|code| std::str::from_utf8(code).ok());
        match code.and_then(|code| u8::from_str_radix(code, 16).ok()) {
            Some(byte) => {
                bytes.push(byte);
                rest = &after[2..];
            }
            None => {
                bytes.push(first);
                rest = after;
            }
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(set: &[(&str, &str)]) -> Result<Option<Settings>, String> {
        let find = |name: &str| set.iter().find(|(n, _)| *n == name).map(|(_, value)| (*value).to_owned());
        Settings::read(find)
    }

    #[test]
    fn the_standard_variables_are_understood() {
        assert!(read(&[]).unwrap().is_none());
        let base = ("OTEL_EXPORTER_OTLP_ENDPOINT", "http://c:4318/");
        assert!(read(&[base, ("OTEL_SDK_DISABLED", "true")]).unwrap().is_none());
        assert!(read(&[base, ("OTEL_TRACES_EXPORTER", "none")]).unwrap().is_none());
        assert!(read(&[base, ("OTEL_EXPORTER_OTLP_PROTOCOL", "grpc")]).err().unwrap().contains("grpc"));
        assert!(read(&[("OTEL_EXPORTER_OTLP_ENDPOINT", "c:4318")]).is_err());
        let all = read(&[
            base,
            ("OTEL_EXPORTER_OTLP_HEADERS", "api-key=a%3Db, x = y"),
            ("OTEL_EXPORTER_OTLP_TIMEOUT", "250"),
            ("OTEL_RESOURCE_ATTRIBUTES", "team=shop,service.name=old"),
            ("OTEL_SERVICE_NAME", "move"),
        ]);
        let all = all.unwrap().unwrap();
        assert_eq!(all.endpoint, "http://c:4318/v1/traces");
        let pair = |a: &str, b: &str| (a.to_owned(), b.to_owned());
        assert_eq!(all.headers, [pair("api-key", "a=b"), pair("x", "y")]);
        assert_eq!(all.timeout, Duration::from_millis(250));
        assert_eq!(all.resource[..2], [pair("team", "shop"), pair("service.name", "move")]);
        let own = read(&[base, ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "https://d/traces")]).unwrap().unwrap();
        assert_eq!(own.endpoint, "https://d/traces");
    }
}
