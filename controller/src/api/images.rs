//! Images that clients have on their own disks: uploaded blob by blob, only what the server lacks, and then named by their manifest.

use axum::body::Body;
use axum::extract::{Path, State};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::{Json, Router};
use http::StatusCode;
use serde_json::json;

use super::beside::{Incoming, parse_digest, receive};
use super::failure::Failure;
use super::{Context, body};

/// Largest manifest of an image; registries allow as much.
const MANIFEST_BYTES: usize = 4 << 20;

pub(super) fn routes() -> Router<Context> {
    Router::new()
        .route("/images", get(images))
        .route("/images/{digest}", get(image).put(put_image))
        .route("/images/blobs/{digest}", get(blob).put(put_blob))
}

async fn images(State(context): State<Context>) -> Result<Response, Failure> {
    let images = context.parts.images().await?;
    Ok(Json(json!({ "kind": "ImageList", "items": images })).into_response())
}

/// Whether an image is here: for HEAD.
async fn image(State(context): State<Context>, Path(digest): Path<String>) -> Result<Response, Failure> {
    let digest = parse_digest(&digest)?;
    there(context.parts.has_image(&digest).await?, "images", &digest)
}

/// Whether a blob is here: for HEAD; it is not given out.
async fn blob(State(context): State<Context>, Path(digest): Path<String>) -> Result<Response, Failure> {
    let digest = parse_digest(&digest)?;
    there(context.parts.has_blob(&digest).await?, "blobs", &digest)
}

fn there(is_there: bool, kind: &str, digest: &str) -> Result<Response, Failure> {
    if is_there { Ok(StatusCode::NO_CONTENT.into_response()) } else { Err(Failure::not_found(kind, digest)) }
}

async fn put_blob(
    State(context): State<Context>,
    Path(digest): Path<String>,
    mut content: Body,
) -> Result<Response, Failure> {
    let digest = parse_digest(&digest)?;
    if context.parts.has_blob(&digest).await? {
        return Ok(StatusCode::OK.into_response());
    }
    let _permit =
        context.uploads.acquire().await.map_err(|_| Failure::unavailable("the server is stopping"))?;
    let file = Incoming::new(&context.config.incoming);
    receive(&mut content, &file.0, context.config.max_blob_bytes).await?;
    context.parts.put_blob(&digest, &file.0).await?;
    Ok(StatusCode::CREATED.into_response())
}

async fn put_image(
    State(context): State<Context>,
    Path(digest): Path<String>,
    mut content: Body,
) -> Result<Response, Failure> {
    let digest = parse_digest(&digest)?;
    let mut manifest = Vec::new();
    while let Some(data) = body::next(&mut content).await? {
        if manifest.len() + data.len() > MANIFEST_BYTES {
            return Err(Failure::too_large(MANIFEST_BYTES as u64));
        }
        manifest.extend_from_slice(&data);
    }
    context.parts.put_image(&digest, manifest).await?;
    Ok(StatusCode::CREATED.into_response())
}
