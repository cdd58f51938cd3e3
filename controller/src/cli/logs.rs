//! `hearth logs`.

use futures_util::{AsyncBufReadExt, TryStreamExt};

use super::args::{Format, Logs};
use super::client::Server;
use super::error::Error;
use super::out::{self, Paint};
use crate::api::ports::LogLine;

/// Runs the command.
pub(super) async fn run(arguments: Logs) -> Result<(), Error> {
    let (server, namespace) = Server::open(&arguments.place).await?;
    let path = path(&namespace, &arguments);
    let mut lines: u64 = 0;
    follow(&server, &path, |line| {
        lines += 1;
        match arguments.output {
            Some(Format::Json) => {
                out::line(&serde_json::to_string(&line).map_err(|error| Error::failed(error.to_string()))?)
            }
            Some(Format::Yaml) => out::text(&format!("---\n{}", out::yaml(&line)?)),
            None => out::line(&plain(&line, arguments.details)),
        }
    })
    .await?;
    match &arguments.request {
        // One that printed nothing is known by its call.
        Some(request) if lines == 0 && arguments.tail != Some(0) => {
            Err(unknown_request(&namespace, &arguments.name, request))
        }
        _ => Ok(()),
    }
}

fn unknown_request(namespace: &str, name: &str, request: &str) -> Error {
    Error::fixable(
        format!("the log of function {namespace}/{name} knows no request {request:?}"),
        format!(
            "the id is in the answer's x-hearth-request-id; `hearth logs --details {name}` shows those that printed something, and old lines go when the log is full"
        ),
    )
}

fn path(namespace: &str, arguments: &Logs) -> String {
    let mut query: Vec<String> = Vec::new();
    if arguments.follow {
        query.push("follow=true".to_owned());
    }
    if let Some(request) = &arguments.request {
        // Whatever is typed must not become another parameter.
        let encoded: String = request
            .bytes()
            .map(|byte| {
                if byte.is_ascii_alphanumeric() || byte == b'-' {
                    char::from(byte).to_string()
                } else {
                    format!("%{byte:02X}")
                }
            })
            .collect();
        query.push(format!("request={encoded}"));
    }
    if let Some(tail) = arguments.tail {
        query.push(format!("tail={tail}"));
    }
    if let Some(since) = arguments.since {
        query.push(format!("sinceSeconds={}", since.as_secs()));
    }
    format!(
        "/apis/hearth.dev/v1/namespaces/{namespace}/functions/{}/logs?{}",
        arguments.name,
        query.join("&")
    )
}

/// Calls `each` with every line that the server sends, until it ends or `each` fails.
pub(super) async fn follow(
    server: &Server,
    path: &str,
    mut each: impl FnMut(LogLine) -> Result<(), Error>,
) -> Result<(), Error> {
    let stream = std::pin::pin!(server.stream(path).await?);
    let mut lines = stream.lines();
    while let Some(line) = lines.try_next().await.map_err(|_| super::client::broke_off("log"))? {
        if line.is_empty() {
            continue;
        }
        let line = serde_json::from_str(&line)
            .map_err(|error| Error::failed(format!("a line of the log cannot be read: {error}")))?;
        each(line)?;
    }
    Ok(())
}

/// As [`follow`], into a channel: the next line is read when the one before was taken.
pub(super) async fn follow_into(
    server: &Server,
    path: &str,
    lines: tokio::sync::mpsc::Sender<LogLine>,
) -> Result<(), Error> {
    let stream = std::pin::pin!(server.stream(path).await?);
    let mut read = stream.lines();
    while let Ok(Some(line)) = read.try_next().await {
        // A line that cannot be read is one of a later version: the others still count.
        if let Ok(line) = serde_json::from_str(&line)
            && lines.send(line).await.is_err()
        {
            break;
        }
    }
    Ok(())
}

/// A line for people.
pub(super) fn plain(line: &LogLine, details: bool) -> String {
    let text = printable(&line.text);
    let text =
        if line.stream == "hearth" { out::paint(&format!("[hearth] {text}"), Paint::Dim) } else { text };
    if !details {
        return text;
    }
    let request = match (&line.request, line.shared) {
        (Some(request), _) => request.as_str(),
        (None, true) => "(shared)",
        (None, false) => "-",
    };
    let head = format!("{} {} {request} {}", line.time, line.instance, line.stream);
    format!("{} {text}", out::paint(&head, Paint::Dim))
}

/// A function's output must not drive the terminal: control characters but tabs and colours' escapes show as what they are. To a pipe it
/// goes unchanged.
pub(super) fn printable(text: &str) -> String {
    if !out::is_live() {
        return text.to_owned();
    }
    // A stack is one entry of several lines.
    text.split('\n').map(sanitized).collect::<Vec<_>>().join("\n")
}

fn sanitized(text: &str) -> String {
    let mut clean = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(next) = rest.chars().next() {
        if let Some(length) = color_sequence(rest) {
            let (sequence, after) = rest.split_at(length);
            clean.push_str(sequence);
            rest = after;
            continue;
        }
        if next.is_control() && next != '\t' {
            clean.extend(next.escape_default());
        } else {
            clean.push(next);
        }
        rest = rest.get(next.len_utf8()..).unwrap_or_default();
    }
    clean
}

/// Length of the colour sequence (`ESC [ digits and semicolons m`) that `text` begins with.
fn color_sequence(text: &str) -> Option<usize> {
    let after = text.strip_prefix("\u{1b}[")?;
    let end = after.find(|character: char| !(character.is_ascii_digit() || character == ';'))?;
    after.get(end..).is_some_and(|rest| rest.starts_with('m')).then_some(end + 3)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn colours_pass_and_other_control_characters_show() {
        assert_eq!(sanitized("\u{1b}[1;31mred\u{1b}[0m\tend"), "\u{1b}[1;31mred\u{1b}[0m\tend");
        assert_eq!(sanitized("a\u{1b}[2Jb\r\u{7}"), "a\\u{1b}[2Jb\\r\\u{7}");
        assert_eq!(sanitized("\u{1b}[31"), "\\u{1b}[31");
        assert_eq!(sanitized("héllo ✓"), "héllo ✓");
    }
}
