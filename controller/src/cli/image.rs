//! `hearth image`: brings images to the server, blob by blob, only what it lacks.

use std::io::Read;
use std::path::PathBuf;

use bytes::Bytes;
use futures_util::StreamExt as _;
use http::{Request, StatusCode};
use http_body::Frame;
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt as _, StreamBody};
use indicatif::{ProgressBar, ProgressStyle};
use kube::client::Body;
use serde::Deserialize;

use super::args::{Image, ListImages, LoadImage};
use super::client::Server;
use super::error::Error;
use super::out;
use crate::api::ports;
use crate::build::images;
use crate::build::images::local::{Blob, Local};

/// Bytes of one piece of an upload.
const PIECE: usize = 256 * 1024;

/// Pieces that are read ahead of the upload.
const AHEAD: usize = 4;

/// Runs the command.
pub(super) async fn run(arguments: Image) -> Result<(), Error> {
    match arguments {
        Image::Load(arguments) => load(arguments).await,
        Image::Push(arguments) => {
            let local = open(arguments.path).await?;
            push(&local, &arguments.reference, arguments.plain_http).await
        }
        Image::List(arguments) => list(arguments).await,
    }
}

async fn load(arguments: LoadImage) -> Result<(), Error> {
    let server = Server::find(&arguments.client).await?;
    let local = open(arguments.path).await?;
    let digest = send(&server, local).await?;
    out::line(&digest)
}

/// Pushes an image and prints its name with its digest.
pub(super) async fn push(local: &Local, reference: &str, plain_http: bool) -> Result<(), Error> {
    let failed = |error: images::Error| Error::failed(crate::telemetry::chain(&error));
    let parsed = images::reference(reference).map_err(failed)?;
    let plain = plain_http.then(|| parsed.resolve_registry().to_owned());
    let access = images::Access { plain: plain.into_iter().collect() };
    let remote = images::Remote::open(reference, &access).await.map_err(failed)?;
    let bar = transfer_bar(0, "pushing");
    let (whole, moving) = (bar.clone(), bar.clone());
    let pushed =
        remote.push(local, move |bytes| whole.set_length(bytes), move |bytes| moving.inc(bytes)).await;
    bar.finish_and_clear();
    let sent = pushed.map_err(failed)?;
    out::note(&format!(
        "{} of {} blobs sent, {}",
        sent.blobs,
        local.blobs().len(),
        out::bytes_for_people(sent.bytes)
    ));
    out::line(&parsed.clone_with_digest(local.digest().to_string()).to_string())
}

/// Reads an image of this machine's disk.
pub(super) async fn open(path: PathBuf) -> Result<Local, Error> {
    let opening = tokio::task::spawn_blocking(move || Local::open(&path)).await;
    let opened = opening.map_err(|error| Error::failed(format!("reading the image: {error}")))?;
    opened.map_err(|error| Error::failed(crate::telemetry::chain(&error)))
}

/// Sends an image to the server; the digest of its manifest.
pub(super) async fn send(server: &Server, local: Local) -> Result<String, Error> {
    let digest = local.digest();
    let path = format!("/images/{digest}");
    if has(server, &path).await? {
        return Ok(digest.to_string());
    }
    let mut missing = Vec::new();
    for blob in local.blobs() {
        if !has(server, &format!("/images/blobs/{}", blob.digest)).await? {
            missing.push(blob.clone());
        }
    }
    let total = missing.iter().map(|blob| blob.size).sum();
    let bar = transfer_bar(total, "uploading");
    for blob in &missing {
        upload(server, &local, blob, &bar).await?;
    }
    bar.finish_and_clear();
    let spinner = ProgressBar::new_spinner().with_message("the server unpacks it");
    spinner.enable_steady_tick(std::time::Duration::from_millis(100));
    let request = Request::put(&path).body(Body::from(local.manifest().to_vec()));
    server.send(request.map_err(|error| Error::failed(error.to_string()))?).await?;
    spinner.finish_and_clear();
    out::note(&format!(
        "{} of {} blobs sent, {}",
        missing.len(),
        local.blobs().len(),
        out::bytes_for_people(total)
    ));
    Ok(digest.to_string())
}

/// A bar of bytes on standard error; nothing where that is no terminal.
pub(super) fn transfer_bar(total: u64, what: &'static str) -> ProgressBar {
    let bar = ProgressBar::new(total).with_message(what);
    let template = "{msg} {bar:30} {binary_bytes} of {binary_total_bytes} {binary_bytes_per_sec}";
    if let Ok(style) = ProgressStyle::with_template(template) {
        bar.set_style(style);
    }
    bar
}

async fn has(server: &Server, path: &str) -> Result<bool, Error> {
    // Not HEAD: a refusal of that has no reason in it.
    let request = Request::get(path).body(Body::empty());
    let there = server.send_raw(request.map_err(|error| Error::failed(error.to_string()))?).await?;
    match there.status() {
        status if status.is_success() => Ok(true),
        StatusCode::NOT_FOUND => Ok(false),
        _ => Err(server.refusal(there).await),
    }
}

async fn upload(server: &Server, local: &Local, blob: &Blob, bar: &ProgressBar) -> Result<(), Error> {
    let reader = local.read(blob).map_err(|error| Error::failed(crate::telemetry::chain(&error)))?;
    server.put_large(&format!("/images/blobs/{}", blob.digest), pieces(reader, bar.clone())).await
}

/// A body that is read as it is sent.
fn pieces(mut reader: Box<dyn Read + Send>, bar: ProgressBar) -> UnsyncBoxBody<Bytes, std::io::Error> {
    let (full, pieces) = tokio::sync::mpsc::channel::<std::io::Result<Bytes>>(AHEAD);
    tokio::task::spawn_blocking(move || {
        loop {
            let mut piece = Vec::with_capacity(PIECE);
            let read = reader.by_ref().take(PIECE as u64).read_to_end(&mut piece);
            let end = matches!(read, Ok(0));
            let piece = read.map(|_| Bytes::from(piece));
            let failed = piece.is_err();
            if end || full.blocking_send(piece).is_err() || failed {
                return;
            }
        }
    });
    let stream = futures_util::stream::unfold(pieces, |mut pieces| async move {
        pieces.recv().await.map(|piece| (piece, pieces))
    });
    let frames = stream.map(move |piece| {
        piece.map(|piece| {
            bar.inc(piece.len() as u64);
            Frame::data(piece)
        })
    });
    StreamBody::new(frames).boxed_unsync()
}

#[derive(Deserialize)]
struct List {
    items: Vec<ports::Image>,
}

async fn list(arguments: ListImages) -> Result<(), Error> {
    let server = Server::find(&arguments.client).await?;
    let List { items } = server.get("/images").await?;
    if let Some(format) = arguments.output.form {
        return out::object(&serde_json::json!({ "kind": "ImageList", "items": items }), format);
    }
    let row = |image: &ports::Image| {
        vec![
            image.digest.clone(),
            out::bytes_for_people(image.bytes),
            image.layers.to_string(),
            image.command.join(" "),
        ]
    };
    let rows: Vec<Vec<String>> = items.iter().map(row).collect();
    out::text(&out::table(&["IMAGE", "SIZE", "LAYERS", "COMMAND"], &rows))
}
