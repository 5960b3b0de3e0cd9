//! S3 and what speaks like it, through the crate `object_store`. Large files go up in parts.
//!
//! Errors lose the credentials that a server may repeat in them before anybody sees them.

use std::fs::File;
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::sync::Arc;
use std::time::Duration;

use object_store::BackoffConfig;
use object_store::ClientOptions;
use object_store::ObjectStore;
use object_store::ObjectStoreExt;
use object_store::RetryConfig;
use object_store::aws::AmazonS3Builder;
use object_store::path::Path;

use crate::process::config::S3;
use crate::process::config::Secret;
use crate::process::side::recording::objects::Answer;
use crate::process::side::recording::objects::ObjectError;
use crate::process::side::recording::objects::Objects;

/// The least that S3 takes for a part that is not the last.
const PART_BYTES: usize = 5 * 1024 * 1024;
const CONNECT_MAX: Duration = Duration::from_secs(5);
/// Of one request: a part has to go up in it.
const REQUEST_MAX: Duration = Duration::from_secs(60);
/// Tries of one request, and the time for all of them; who asked waits. Uploads are tried again by themselves, later.
const RETRIES_MAX: usize = 2;
const TRIES_MAX: Duration = Duration::from_secs(10);
const ERROR_CHARS_MAX: usize = 400;

pub(crate) struct Bucket {
    store: Arc<dyn ObjectStore>,
    prefix: String,
    /// What no text may show.
    hidden: Vec<String>,
}

impl Bucket {
    pub(crate) fn new(settings: &S3) -> Result<Self, ObjectError> {
        // The default of this process; somebody may have set the same before.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let shown = |secret: &Secret| match secret {
            Secret::Text(text) => text.clone(),
            Secret::File(_) => String::new(),
        };
        let hidden = vec![shown(&settings.secret_key), shown(&settings.access_key)];
        let is_plain = settings.endpoint.starts_with("http://");
        let options =
            ClientOptions::new().with_connect_timeout(CONNECT_MAX).with_timeout(REQUEST_MAX).with_allow_http(is_plain);
        let backoff = BackoffConfig::default();
        let retry = RetryConfig { backoff, max_retries: RETRIES_MAX, retry_timeout: TRIES_MAX };
        let mut builder = AmazonS3Builder::new()
            .with_bucket_name(&settings.bucket)
            .with_region(&settings.region)
            .with_access_key_id(shown(&settings.access_key))
            .with_secret_access_key(shown(&settings.secret_key))
            // One object at a time: DELETE, which all know, in place of POST with a list.
            .with_disable_bulk_delete(true)
            .with_client_options(options)
            .with_retry(retry);
        if !settings.endpoint.is_empty() {
            builder = builder.with_endpoint(&settings.endpoint);
        }
        let store = builder.build().map_err(|error| failed(&error, &hidden))?;
        Ok(Self { store: Arc::new(store), prefix: settings.prefix.clone(), hidden })
    }

    fn path(&self, name: &str) -> Path {
        if self.prefix.is_empty() { Path::from(name) } else { Path::from(format!("{}/{name}", self.prefix)) }
    }

    fn told<T>(&self, result: object_store::Result<T>) -> Result<T, ObjectError> {
        result.map_err(|error| failed(&error, &self.hidden))
    }

    async fn put_parts(&self, path: &Path, file: Arc<File>, bytes: u64) -> Result<(), ObjectError> {
        let mut upload = self.told(self.store.put_multipart(path).await)?;
        let mut at = 0;
        while at < bytes {
            let put = match part(&file, at, bytes).await {
                Ok(part) => {
                    at += part.len() as u64;
                    self.told(upload.put_part(part.into()).await)
                }
                Err(error) => Err(error),
            };
            if let Err(error) = put {
                // Parts that are left there cost money and nothing else; the bucket's rules may clear them.
                let _ = upload.abort().await;
                return Err(error);
            }
        }
        self.told(upload.complete().await).map(|_| ())
    }
}

impl Objects for Bucket {
    fn put<'a>(&'a self, name: &'a str, file: File) -> Answer<'a, ()> {
        Box::pin(async move {
            let (path, file) = (self.path(name), Arc::new(file));
            let bytes = file.metadata().map_err(unreadable)?.len();
            if bytes > PART_BYTES as u64 {
                return self.put_parts(&path, file, bytes).await.map_err(no_bucket);
            }
            let whole = part(&file, 0, bytes).await?;
            self.told(self.store.put(&path, whole.into()).await).map(|_| ()).map_err(no_bucket)
        })
    }

    fn get<'a>(&'a self, name: &'a str, range: Range<u64>) -> Answer<'a, Vec<u8>> {
        Box::pin(async move { self.told(self.store.get_range(&self.path(name), range).await).map(Into::into) })
    }

    fn size<'a>(&'a self, name: &'a str) -> Answer<'a, u64> {
        Box::pin(async move { self.told(self.store.head(&self.path(name)).await).map(|found| found.size) })
    }

    fn delete<'a>(&'a self, name: &'a str) -> Answer<'a, ()> {
        Box::pin(async move {
            match self.told(self.store.delete(&self.path(name)).await) {
                Err(ObjectError::Missing) => Ok(()),
                answer => answer,
            }
        })
    }
}

/// What lies at `at`, and no more than one part.
async fn part(file: &Arc<File>, at: u64, bytes: u64) -> Result<Vec<u8>, ObjectError> {
    let file = Arc::clone(file);
    let read = move || {
        let mut part = vec![0; usize::try_from(bytes - at).unwrap_or(usize::MAX).min(PART_BYTES)];
        file.read_exact_at(&mut part, at).map(|()| part)
    };
    let read = tokio::task::spawn_blocking(read).await;
    read.map_err(std::io::Error::other).flatten().map_err(unreadable)
}

/// Where something is put nothing else can be missing.
fn no_bucket(error: ObjectError) -> ObjectError {
    match error {
        ObjectError::Missing => ObjectError::Failed("it has no such bucket".to_owned()),
        error => error,
    }
}

fn unreadable(error: std::io::Error) -> ObjectError {
    ObjectError::File(error.to_string())
}

fn failed(error: &object_store::Error, hidden: &[String]) -> ObjectError {
    if matches!(error, object_store::Error::NotFound { .. }) {
        return ObjectError::Missing;
    }
    ObjectError::Failed(redacted(&error.to_string(), hidden))
}

fn redacted(text: &str, hidden: &[String]) -> String {
    let mut text = text.to_owned();
    for secret in hidden.iter().filter(|secret| !secret.is_empty()) {
        text = text.replace(secret, "…");
    }
    let text: String =
        text.chars().map(|char| if char.is_control() { ' ' } else { char }).take(ERROR_CHARS_MAX).collect();
    text
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use object_store::memory::InMemory;

    use super::*;

    fn file(bytes: &[u8]) -> File {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(bytes).unwrap();
        file
    }

    fn settings(endpoint: &str) -> S3 {
        S3 {
            bucket: "recordings".to_owned(),
            prefix: "here/below".to_owned(),
            endpoint: endpoint.to_owned(),
            region: "us-east-1".to_owned(),
            access_key: Secret::Text("access-4711".to_owned()),
            secret_key: Secret::Text("secret-4711".to_owned()),
        }
    }

    /// What is put is there to the byte, in one part and in several, again and again, until it is deleted.
    async fn check(bucket: &Bucket) {
        for bytes in [0, 1, 70_000, PART_BYTES, PART_BYTES + 1, 2 * PART_BYTES + 77] {
            let content: Vec<u8> = (0..bytes).map(|at| (at % 251) as u8).collect();
            for _ in 0..2 {
                bucket.put("17/x.audio", file(&content)).await.unwrap();
                assert_eq!(bucket.size("17/x.audio").await, Ok(bytes as u64));
            }
            for (start, end) in [(0, bytes), (bytes / 2, bytes), (bytes / 3, bytes / 2)] {
                if start < end {
                    let part = bucket.get("17/x.audio", start as u64..end as u64).await.unwrap();
                    assert!(part == content[start..end], "{bytes} {start}");
                }
            }
        }
        bucket.delete("17/x.audio").await.unwrap();
        assert_eq!(bucket.size("17/x.audio").await, Err(ObjectError::Missing));
        assert_eq!(bucket.get("17/x.audio", 0..1).await, Err(ObjectError::Missing));
        bucket.delete("17/x.audio").await.unwrap();
    }

    #[tokio::test]
    async fn what_is_put_is_there_until_it_is_deleted() {
        let store = Arc::new(InMemory::new());
        let bucket = Bucket { store: store.clone(), prefix: "a/b".to_owned(), hidden: Vec::new() };
        check(&bucket).await;
        bucket.put("17/x.audio", file(b"x")).await.unwrap();
        assert!(store.head(&Path::from("a/b/17/x.audio")).await.is_ok());
    }

    #[tokio::test]
    async fn a_store_that_is_not_there_is_told_without_credentials() {
        let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let bucket = Bucket::new(&settings(&format!("http://{port}"))).unwrap();
        let Err(ObjectError::Failed(text)) = bucket.put("x", file(b"x")).await else { panic!("it was put") };
        assert!(text.contains("127.0.0.1"), "{text}");
        assert!(!text.contains("4711"), "{text}");
        let hidden = ["secret".to_owned(), String::new()];
        assert_eq!(redacted("<Key>\nsecret</Key>", &hidden), "<Key> …</Key>");
    }

    /// Against a real server: `docs/recording-proof.md` has the command.
    #[tokio::test]
    #[ignore = "needs a server that speaks S3, named by TIPRING_TEST_S3"]
    async fn a_real_server_does_what_the_memory_does() {
        let bucket = Bucket::new(&crate::process::side::tests::objects::real_server()).unwrap();
        check(&bucket).await;
    }
}
