//! The status of a Function as a sub-resource. It is Hearth's to write; a client can, and is overwritten at the next change.

use axum::extract::State;
use axum::response::Response;
use http::{HeaderMap, StatusCode};

use hearth_function::Function;

use super::extract::{Params, Place, Sent};
use super::failure::Failure;
use super::objects::{answer, to_json};
use super::patch::{self as patching, Form};
use super::render::View;
use super::writing::{Effect, WriteQuery};
use super::{Context, reading};

pub(super) async fn update(
    State(context): State<Context>,
    Place { namespace, name }: Place,
    Params(asked): Params<WriteQuery>,
    headers: HeaderMap,
    Sent(sent): Sent,
) -> Result<Response, Failure> {
    let effect = Effect::of(&asked.dry_run)?;
    let object = patching::yaml(&sent)?;
    store(&context, reading::with_status(&namespace, &name, object)?, effect, &headers).await
}

pub(super) async fn patch(
    State(context): State<Context>,
    Place { namespace, name }: Place,
    Params(asked): Params<WriteQuery>,
    headers: HeaderMap,
    form: Form,
    Sent(sent): Sent,
) -> Result<Response, Failure> {
    let effect = Effect::of(&asked.dry_run)?;
    if form == Form::Apply {
        return Err(Failure::unsupported_media_type(
            "a status is changed by update, merge patch or JSON patch",
        ));
    }
    let change = form.read(&sent)?;
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
