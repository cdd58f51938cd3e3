//! What a patch makes of an object: pure. Server-side apply is another matter: [`super::ownership`].

use http::HeaderMap;
use serde_json::Value;

use super::failure::Failure;

/// How a patch is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Form {
    /// RFC 7386.
    Merge,
    /// RFC 6902.
    Json,
    /// Server-side apply, as YAML or JSON.
    Apply,
}

impl Form {
    /// The form that the request's content type names.
    pub(super) fn of(headers: &HeaderMap) -> Result<Self, Failure> {
        let media =
            headers.get(http::header::CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
        match media.split(';').next().unwrap_or_default().trim() {
            "application/merge-patch+json" => Ok(Self::Merge),
            "application/json-patch+json" => Ok(Self::Json),
            "application/apply-patch+yaml" => Ok(Self::Apply),
            other => Err(Failure::unsupported_media_type(&format!(
                "the body of the request was in an unknown format {other:?} - accepted media types include: application/json-patch+json, application/merge-patch+json, application/apply-patch+yaml"
            ))),
        }
    }

    /// Reads the body.
    pub(super) fn read(self, body: &[u8]) -> Result<Value, Failure> {
        match self {
            Self::Merge | Self::Json => serde_json::from_slice(body)
                .map_err(|error| Failure::bad_request(&format!("the patch is no JSON: {error}"))),
            Self::Apply => yaml(body),
        }
    }

    /// What the patch makes of `current`.
    ///
    /// # Errors
    /// 400 for what is no JSON patch, 422 for one that does not fit the object, and 415 for [`Form::Apply`], which depends on more than these
    /// two.
    pub(super) fn apply(self, current: &Value, patch: &Value) -> Result<Value, Failure> {
        let mut next = current.clone();
        match self {
            Self::Merge => json_patch::merge(&mut next, patch),
            Self::Json => {
                let operations: json_patch::Patch = serde_json::from_value(patch.clone())
                    .map_err(|error| Failure::bad_request(&format!("the patch is no JSON patch: {error}")))?;
                json_patch::patch(&mut next, &operations).map_err(|error| {
                    Failure::unprocessable(&format!("the patch cannot be applied: {error}"))
                })?;
            }
            Self::Apply => return Err(Failure::unsupported_media_type("an apply is not served here")),
        }
        Ok(next)
    }
}

/// Reads a body as YAML, of which JSON is a part.
pub(super) fn yaml(body: &[u8]) -> Result<Value, Failure> {
    let text = std::str::from_utf8(body).map_err(|_| Failure::bad_request("the body is no UTF-8"))?;
    serde_saphyr::from_str(text)
        .map_err(|error| Failure::bad_request(&format!("the body is no YAML: {error}")))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn current() -> Value {
        json!({ "metadata": { "name": "a", "labels": { "x": "1", "y": "2" } }, "spec": { "runtime": "nodejs", "handler": "a.b" } })
    }

    #[test]
    fn each_form_does_what_its_standard_says() {
        let merged = Form::Merge
            .apply(&current(), &json!({ "spec": { "handler": null, "runtime": "python" } }))
            .unwrap();
        assert_eq!(merged["spec"], json!({ "runtime": "python" }));
        let patch = json!([{ "op": "test", "path": "/spec/runtime", "value": "nodejs" }, { "op": "remove", "path": "/spec/handler" }]);
        assert_eq!(Form::Json.apply(&current(), &patch).unwrap()["spec"], json!({ "runtime": "nodejs" }));
    }

    #[test]
    fn what_is_no_patch_and_what_does_not_fit_are_told_apart() {
        for (code, wrong) in [
            (400, json!({ "op": "remove", "path": "/spec/handler" })),
            (400, json!([{ "op": "drop", "path": "/spec/handler" }])),
            (422, json!([{ "op": "remove", "path": "/spec/absent" }])),
            (422, json!([{ "op": "test", "path": "/spec/runtime", "value": "python" }])),
        ] {
            let refused = Form::Json.apply(&current(), &wrong).unwrap_err();
            assert_eq!(refused.code().as_u16(), code, "{wrong}");
        }
    }

    #[test]
    fn an_apply_may_be_yaml() {
        let read = Form::Apply.read(b"spec:\n  runtime: python\n").unwrap();
        assert_eq!(read["spec"]["runtime"], "python");
    }
}
