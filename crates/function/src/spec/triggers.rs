//! What causes a call of a Function.

use std::fmt;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// What causes a call: exactly one of the fields.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Trigger {
    /// A request to the gateway.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub http: Option<HttpTrigger>,
    /// A time; not built yet.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cron: Option<CronTrigger>,
    /// An event; not built yet.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub event: Option<EventTrigger>,
}

/// A route of the gateway.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct HttpTrigger {
    /// The path, from the first slash on.
    pub path: String,
    /// `Exact`: this path alone; `Prefix`: this path and everything below it, by whole segments.
    #[serde(default)]
    pub path_type: PathType,
    /// The methods; empty: all of them. HEAD is answered wherever GET is.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub methods: Vec<HttpMethod>,
    /// The host name; empty: every host. `*.example.com` stands for one more label.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub host: String,
    /// Who may call: `none` asks for nothing.
    #[serde(default)]
    pub auth: HttpAuth,
}

/// How a path is compared.
#[derive(
    Debug, Clone, Copy, Default, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize, JsonSchema,
)]
#[schemars(inline)]
pub enum PathType {
    /// This path alone.
    Exact,
    /// This path and everything below it.
    #[default]
    Prefix,
}

/// A method of HTTP.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "UPPERCASE")]
#[schemars(inline)]
#[expect(missing_docs, reason = "the names are HTTP's own")]
pub enum HttpMethod {
    Get,
    Head,
    Post,
    Put,
    Patch,
    Delete,
    Options,
}

impl HttpMethod {
    /// As it stands in a request.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Get => "GET",
            Self::Head => "HEAD",
            Self::Post => "POST",
            Self::Put => "PUT",
            Self::Patch => "PATCH",
            Self::Delete => "DELETE",
            Self::Options => "OPTIONS",
        }
    }
}

impl fmt::Display for HttpMethod {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Who may call.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
#[schemars(inline)]
pub enum HttpAuth {
    /// Everybody.
    #[default]
    None,
}

/// A time.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct CronTrigger {
    /// Minute, hour, day of the month, month, day of the week.
    pub schedule: String,
    /// The time zone of the schedule, by its IANA name.
    #[serde(default = "utc")]
    pub timezone: String,
}

fn utc() -> String {
    "UTC".to_owned()
}

/// An event.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct EventTrigger {
    /// The type of the event, as in `order.created`.
    #[serde(rename = "type")]
    pub event_type: String,
    /// Where the event comes from; empty: everywhere.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub source: String,
}
