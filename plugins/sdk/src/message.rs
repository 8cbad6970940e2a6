//! Lines as they are read and written; what stands in them is `migrate_plugin_api::protocol`'s.

use migrate_plugin_api::VerifyDepth;
use migrate_plugin_api::protocol::{CallContext, ErrorObject, Id, Two};
use serde::{Deserialize, Serialize};
use serde_json::Value;

/// Longest text of a log line or of a progress report; the host cuts there too.
pub(crate) const TEXT_BYTES: usize = 4 * 1024;

/// A line of the host: a request, a notification or an answer.
#[derive(Debug, Deserialize)]
pub(crate) struct Incoming {
    #[serde(default)]
    pub id: Option<Id>,
    #[serde(default)]
    pub method: Option<String>,
    #[serde(default)]
    pub params: Value,
    #[serde(default)]
    pub result: Option<Value>,
    #[serde(default)]
    pub error: Option<ErrorObject>,
}

/// A line of the plugin. Fields are written in this order.
#[derive(Debug, Serialize)]
pub(crate) struct Outgoing<'a> {
    pub jsonrpc: Two,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub id: Option<Option<&'a Id>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub method: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub params: Option<&'a Value>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub result: Option<&'a Value>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<&'a ErrorObject>,
}

impl Outgoing<'_> {
    pub(crate) const EMPTY: Self =
        Self { jsonrpc: Two::V2, id: None, method: None, params: None, result: None, error: None };
}

/// Params of every call; which of the last two are there depends on the method.
#[derive(Debug, Deserialize)]
pub(crate) struct CallParams {
    pub context: CallContext,
    pub config: Value,
    #[serde(default)]
    pub outputs: Value,
    #[serde(default)]
    pub depth: Option<VerifyDepth>,
}
