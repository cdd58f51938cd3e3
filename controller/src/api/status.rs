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
use super::writing::{Effect, Version, WriteQuery, on_the_newest};
use super::{Context, reading};

pub(super) async fn update(
    State(context): State<Context>,
    Place { namespace, name }: Place,
    Params(asked): Params<WriteQuery>,
    headers: HeaderMap,
    Sent(sent): Sent,
) -> Result<Response, Failure> {
    let effect = Effect::of(&asked.dry_run)?;
    let view = View::of(&headers, "")?;
    let object = patching::yaml(&sent)?;
    let stored = store(&context, reading::with_status(&namespace, &name, object)?, effect).await?;
    answer(view, StatusCode::OK, &stored)
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
    let view = View::of(&headers, "")?;
    let (context, namespace, name, change) = (&context, &*namespace, &*name, &change);
    let stored = on_the_newest(name, || async move {
        let before = to_json(context.store.get::<Function>(namespace, name)?.as_ref())?;
        let after = form.apply(&before, change)?;
        let version = Version::of_patched(&before, &after);
        let function = reading::with_status(namespace, name, after)?;
        Ok((version, store(context, function, effect).await))
    });
    answer(view, StatusCode::OK, &stored.await?)
}

async fn store(context: &Context, function: Function, effect: Effect) -> Result<Function, Failure> {
    let stored = match effect {
        Effect::Stored => context.store.update_status(function).await?,
        Effect::Previewed => context.store.preview_update_status(function)?,
    };
    Ok(Function::clone(&stored))
}
