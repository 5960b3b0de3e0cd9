//! Audio that lies in an object store instead of this machine's disk: what such a store has to do, and reading it by ranges.
//!
//! The store sees sealed pieces and names, never a key. Which store it is stands in `s3`; here nothing knows.

use std::fs::File;
use std::io;
use std::ops::Range;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::PoisonError;

use tokio::runtime::Handle;

use crate::process::side::recording::audio::Sealed;

/// What is read at once of an object that is read from one end to the other.
const AHEAD_BYTES: u64 = 1024 * 1024;

pub(crate) type Answer<'a, T> = Pin<Box<dyn Future<Output = Result<T, ObjectError>> + Send + 'a>>;

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[cfg_attr(not(feature = "s3"), allow(dead_code, reason = "without a store nothing fails as stores do"))]
pub(crate) enum ObjectError {
    #[error("it is not in the object store")]
    Missing,
    #[error("recordings lie in an object store, and none is configured")]
    Unconfigured,
    #[error("the file that goes to the object store: {0}")]
    File(String),
    /// The text holds no credentials.
    #[error("the object store: {0}")]
    Failed(String),
}

/// A store of objects by name.
pub(crate) trait Objects: Send + Sync {
    /// The whole file; durable when it returns. Doing it again changes nothing.
    fn put<'a>(&'a self, name: &'a str, file: File) -> Answer<'a, ()>;
    fn get<'a>(&'a self, name: &'a str, range: Range<u64>) -> Answer<'a, Vec<u8>>;
    /// Bytes of the object.
    fn size<'a>(&'a self, name: &'a str) -> Answer<'a, u64>;
    /// What is not there is deleted.
    fn delete<'a>(&'a self, name: &'a str) -> Answer<'a, ()>;
}

/// An object as a sealed file. Reading waits for the store: not for a thread of the runtime.
pub(crate) struct Object {
    objects: Arc<dyn Objects>,
    name: String,
    bytes: u64,
    handle: Handle,
    /// What was read last, and where it lies.
    last: Mutex<(u64, Vec<u8>)>,
}

impl Object {
    pub(crate) fn new(objects: Arc<dyn Objects>, name: String, bytes: u64, handle: Handle) -> Self {
        // Nothing begins there: what is read first is read as it was asked for.
        Self { objects, name, bytes, handle, last: Mutex::new((u64::MAX, Vec::new())) }
    }
}

impl Sealed for Object {
    fn fill(&self, room: &mut [u8], at: u64) -> io::Result<()> {
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        if copy(&last, room, at) {
            return Ok(());
        }
        let goes_on = (last.0..=last.0.saturating_add(last.1.len() as u64)).contains(&at);
        let wanted = if goes_on { AHEAD_BYTES.max(room.len() as u64) } else { room.len() as u64 };
        let range = at..at.saturating_add(wanted).min(self.bytes);
        let bytes = self.handle.block_on(self.objects.get(&self.name, range)).map_err(io::Error::other)?;
        *last = (at, bytes);
        if copy(&last, room, at) { Ok(()) } else { Err(io::ErrorKind::UnexpectedEof.into()) }
    }
}

/// False if `held` does not have all of it.
fn copy(held: &(u64, Vec<u8>), room: &mut [u8], at: u64) -> bool {
    let start = at.checked_sub(held.0).and_then(|start| usize::try_from(start).ok());
    let found = start.and_then(|start| held.1.get(start..)).and_then(|rest| rest.get(..room.len()));
    if let Some(found) = found {
        room.copy_from_slice(found);
    }
    found.is_some()
}
