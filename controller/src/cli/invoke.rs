//! `hearth invoke`: a call through the management port, whatever the function's routes.

use std::io::{IsTerminal, Read};

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use http::{HeaderMap, Request, Response};
use kube::client::Body;
use serde_json::{Value, json};

use super::args::Invoke;
use super::client::{Server, collect};
use super::error::Error;
use super::out;
use crate::api::{ANSWERED_BY_FUNCTION, FORWARDED_HEADER};

/// Runs the command.
pub(super) async fn run(arguments: Invoke) -> Result<(), Error> {
    let body = arguments.data.as_deref().map(data).transpose()?;
    let method = arguments.method.as_deref().map(str::to_uppercase);
    let method = method.as_deref().unwrap_or_else(|| if body.is_some() { "POST" } else { "GET" });
    if !arguments.path.starts_with('/') {
        return Err(Error::Usage {
            what: format!("the path {:?} does not begin with /", arguments.path),
            fix: format!("--path /{}", arguments.path),
        });
    }
    let (server, namespace) = Server::open(&arguments.place).await?;
    let path = format!(
        "/apis/hearth.dev/v1/namespaces/{namespace}/functions/{}/invoke{}",
        arguments.name, arguments.path
    );
    let mut request = Request::builder().method(method).uri(path);
    for header in &arguments.header {
        let (name, value) = header.split_once(':').ok_or_else(|| Error::Usage {
            what: format!("{header:?} is no header"),
            fix: "give a name and a value, as in --header 'content-type: text/plain'".to_owned(),
        })?;
        request = request.header(format!("{FORWARDED_HEADER}{}", name.trim()), value.trim());
    }
    let named = |name: &str| {
        arguments.header.iter().any(|header| {
            header.split(':').next().is_some_and(|given| given.trim().eq_ignore_ascii_case(name))
        })
    };
    if let Some(body) = &body
        && !named("content-type")
    {
        let kind = if serde_json::from_slice::<Value>(body).is_ok() {
            "application/json"
        } else if std::str::from_utf8(body).is_ok() {
            "text/plain; charset=utf-8"
        } else {
            "application/octet-stream"
        };
        request = request.header(format!("{FORWARDED_HEADER}content-type"), kind);
    }
    let request = request.body(Body::from(body.unwrap_or_default())).map_err(|error| Error::Usage {
        what: format!("this is no request: {error}"),
        fix: "check --method, --path and --header".to_owned(),
    })?;
    let response = server.send_raw(request).await?;
    if !response.headers().contains_key(ANSWERED_BY_FUNCTION) {
        return Err(server.refusal(response).await);
    }
    show(&arguments, &server.place(&namespace), response).await
}

async fn show(arguments: &Invoke, place: &str, response: Response<Body>) -> Result<(), Error> {
    let status = response.status();
    let headers = without_ours(response.headers());
    if arguments.include && arguments.output.is_none() {
        let lines: String = headers
            .iter()
            .map(|(name, value)| format!("{name}: {}\n", String::from_utf8_lossy(value.as_bytes())))
            .collect();
        out::text(&format!("{status}\n{lines}\n"))?;
    }
    if let Some(format) = arguments.output {
        let body = collect(response).await?;
        let headers: serde_json::Map<String, Value> = headers
            .iter()
            .map(|(name, value)| (name.to_string(), json!(String::from_utf8_lossy(value.as_bytes()))))
            .collect();
        let (body, encoded) = match std::str::from_utf8(&body) {
            Ok(text) => (json!(text), false),
            Err(_) => (json!(BASE64_STANDARD.encode(&body)), true),
        };
        out::object(
            &json!({ "status": status.as_u16(), "headers": headers, "body": body, "isBase64Encoded": encoded }),
            format,
        )?;
    } else {
        stream(response).await?;
    }
    if status.as_u16() < 400 {
        return Ok(());
    }
    let request = headers.get("x-hearth-request-id").and_then(|id| id.to_str().ok());
    Err(match request {
        Some(id) => Error::fixable(
            format!("the function answered {status}"),
            format!("hearth logs {}{place} --request {id} shows what it printed", arguments.name),
        ),
        None => Error::failed(format!("the function answered {status}")),
    })
}

/// The body as it comes; a terminal gets a last line's end.
async fn stream(response: Response<Body>) -> Result<(), Error> {
    use http_body_util::BodyExt;
    let mut body = response.into_body();
    let mut last = None;
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|_| super::client::broke_off("answer"))?;
        if let Some(chunk) = frame.data_ref() {
            last = chunk.last().copied().or(last);
            out::bytes(chunk)?;
        }
    }
    if last.is_some_and(|byte| byte != b'\n') && std::io::stdout().is_terminal() {
        out::line("")
    } else {
        Ok(())
    }
}

fn without_ours(headers: &HeaderMap) -> HeaderMap {
    let mut headers = headers.clone();
    headers.remove(ANSWERED_BY_FUNCTION);
    headers
}

fn data(argument: &str) -> Result<Vec<u8>, Error> {
    match argument {
        "-" | "@-" => {
            let mut body = Vec::new();
            std::io::stdin()
                .lock()
                .read_to_end(&mut body)
                .map_err(|error| Error::failed(format!("cannot read standard input: {error}")))?;
            Ok(body)
        }
        _ => match argument.strip_prefix('@') {
            Some(path) => {
                std::fs::read(path).map_err(|error| Error::failed(format!("cannot read {path}: {error}")))
            }
            None => Ok(argument.as_bytes().to_vec()),
        },
    }
}
