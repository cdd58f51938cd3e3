//! What is behind the ports here.

use super::*;

/// Remembers what it was asked and answers plainly.
#[derive(Debug, Default)]
pub(super) struct Fake {
    pub(super) bundles: Mutex<BTreeSet<String>>,
    pub(super) received: Mutex<Vec<Vec<u8>>>,
    pub(super) images: Mutex<Vec<String>>,
}

#[async_trait]
impl Parts for Fake {
    async fn instances(&self) -> Vec<Instance> {
        let instance = |name: &str, function: &str| {
            serde_json::from_value(json!({
                "name": name, "function": function, "state": "Ready", "inFlight": 1, "slots": 10, "started": "2026-01-01T00:00:00Z",
            }))
            .unwrap()
        };
        vec![instance("i-2", "other/web"), instance("i-1", "default/hello")]
    }

    async fn ladder(&self) -> super::ports::Ladder {
        super::ports::Ladder::default()
    }

    async fn activity(&self, _: &FunctionId) -> Activity {
        Activity { waiting: 3, ..Activity::default() }
    }

    async fn invoke(
        &self,
        function: &FunctionId,
        request: Request<Body>,
    ) -> Result<http::Response<Body>, PortError> {
        let (parts, body) = request.into_parts();
        let headers: Vec<_> = parts
            .headers
            .iter()
            .map(|(name, value)| format!("{name}: {}", value.to_str().unwrap()))
            .collect();
        let body = body.collect().await.unwrap().to_bytes();
        let seen = json!({
            "function": function, "method": parts.method.as_str(), "target": parts.uri.to_string(), "headers": headers,
            "body": String::from_utf8_lossy(&body),
        });
        Ok(http::Response::builder().status(418).body(Body::from(seen.to_string())).unwrap())
    }

    async fn logs(&self, query: LogQuery) -> Result<BoxStream<'static, LogLine>, PortError> {
        let line = LogLine {
            time: "2026-01-01T00:00:00.000Z".to_owned(),
            instance: hearth_function::InstanceId::parse("i-1").unwrap(),
            revision: hearth_function::RevisionId::parse("default/hello-00001").unwrap(),
            stream: "stdout".to_owned(),
            request: query.request,
            sequence: Some(1),
            shared: false,
            text: format!("tail {:?}", query.tail),
            call: None,
        };
        let there = futures_util::stream::iter([line]);
        Ok(if query.follow { there.chain(futures_util::stream::pending()).boxed() } else { there.boxed() })
    }

    async fn of_request(
        &self,
        functions: Vec<FunctionId>,
        request: &str,
    ) -> Result<Vec<FunctionId>, PortError> {
        match request {
            "busy" => Err(PortError::Unavailable("other requests are being looked for".to_owned())),
            // All that are asked for know it.
            _ => Ok(functions),
        }
    }

    async fn has_bundle(&self, digest: &str) -> Result<bool, PortError> {
        Ok(self.bundles.lock().unwrap_or_else(PoisonError::into_inner).contains(digest))
    }

    async fn has_blob(&self, digest: &str) -> Result<bool, PortError> {
        self.has_bundle(digest).await
    }

    async fn put_blob(&self, digest: &str, file: &Path) -> Result<(), PortError> {
        self.put_bundle(digest, file).await
    }

    async fn has_image(&self, _: &str) -> Result<bool, PortError> {
        Ok(false)
    }

    async fn put_image(&self, digest: &str, manifest: Vec<u8>) -> Result<(), PortError> {
        if manifest == b"broken" {
            return Err(PortError::Invalid("the manifest is broken".to_owned()));
        }
        self.images.lock().unwrap().push(digest.to_owned());
        Ok(())
    }

    async fn images(&self) -> Result<Vec<super::ports::Image>, PortError> {
        let image = |digest: &String| super::ports::Image {
            digest: digest.clone(),
            bytes: 1,
            layers: 1,
            command: Vec::new(),
        };
        Ok(self.images.lock().unwrap().iter().map(image).collect())
    }

    async fn put_bundle(&self, digest: &str, file: &Path) -> Result<(), PortError> {
        let content = std::fs::read(file).unwrap();
        if content == b"broken" {
            return Err(PortError::Invalid("the archive is broken".to_owned()));
        }
        self.received.lock().unwrap().push(content);
        self.bundles.lock().unwrap().insert(digest.to_owned());
        Ok(())
    }

    async fn capabilities(&self) -> Vec<Capability> {
        Vec::new()
    }

    fn metrics(&self) -> String {
        "hearth_up 1\n".to_owned()
    }

    fn health(&self) -> Result<(), String> {
        Ok(())
    }
}
