//! The status of a Function as a sub-resource. It is Hearth's to write; a client can, and is overwritten at the next change.

use axum::body::Body;
use axum::extract::rejection::QueryRejection;
use axum::extract::{Path, Query, State};
use axum::response::Response;
use http::{HeaderMap, StatusCode};

use hearth_function::Function;

use super::failure::Failure;
use super::objects::{answer, query, to_json};
use super::patch::{self as patching, Form};
use super::render::View;
use super::writing::{Effect, WriteQuery};
use super::{Context, body, reading};

pub(super) async fn update(
    State(context): State<Context>,
    Path((namespace, name)): Path<(String, String)>,
    asked: Result<Query<WriteQuery>, QueryRejection>,
    headers: HeaderMap,
    request_body: Body,
) -> Result<Response, Failure> {
    let effect = Effect::of(&query(asked)?.dry_run)?;
    let object = patching::yaml(&body::object(request_body).await?)?;
    store(&context, reading::with_status(&namespace, &name, object)?, effect, &headers).await
}

pub(super) async fn patch(
    State(context): State<Context>,
    Path((namespace, name)): Path<(String, String)>,
    asked: Result<Query<WriteQuery>, QueryRejection>,
    headers: HeaderMap,
    request_body: Body,
) -> Result<Response, Failure> {
    let effect = Effect::of(&query(asked)?.dry_run)?;
    let form = Form::of(&headers)?;
    if form == Form::Apply {
        return Err(Failure::unsupported_media_type(
            "a status is changed by update, merge patch or JSON patch",
        ));
    }
    let change = form.read(&body::object(request_body).await?)?;
    let current = context.store.get::<Function>(&namespace, &name)?;
    let after = form.apply(&to_json(current.as_ref())?, &change)?;
    store(&context, reading::with_status(&namespace, &name, after)?, effect, &headers).await
}

async fn store(
    context: &Context,
    function: Function,
    effect: Effect,
    headers: &HeaderMap,
) -> Result<Response, Failure> {
    let view = View::of(headers, "")?;
    let stored = match effect {
        Effect::Stored => context.store.update_status(function).await?,
        Effect::Previewed => context.store.preview_update_status(function)?,
    };
    answer(view, StatusCode::OK, stored.as_ref())
}
