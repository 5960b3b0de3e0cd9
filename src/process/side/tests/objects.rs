//! Recordings in an object store: there, on their way there, and when it fails.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Read;
use std::ops::Range;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::AtomicU32;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use tokio::sync::Semaphore;
use tokio::time::Instant;

#[cfg(feature = "s3")]
use crate::process::config::S3;
#[cfg(feature = "s3")]
use crate::process::config::Secret;
use crate::process::side::recording::objects::Answer;
use crate::process::side::recording::objects::ObjectError;
use crate::process::side::recording::objects::Objects;
use crate::process::side::recording::rows;
use crate::process::side::recording::rows::Deletion;
use crate::process::side::recording::rows::Shelf;
#[cfg(feature = "s3")]
use crate::process::side::recording::s3::Bucket;
use crate::process::side::recording::sweep;
use crate::process::side::recording::tests::call;
use crate::process::side::recording::tests::whole_audio;
use crate::process::side::recording::upload::Counts;
use crate::process::side::recording::upload::Uploader;
use crate::process::side::seal::NodeKey;
use crate::process::side::tests::recordings::FRAMES;
use crate::process::side::tests::recordings::fetch;
use crate::process::side::tests::recordings::media;
use crate::process::side::tests::recordings::record;
use crate::process::side::tests::world::World;
use crate::wire::wav::Wav;

/// A store that does as it is told.
struct Memory {
    objects: Mutex<BTreeMap<String, Vec<u8>>>,
    is_down: AtomicBool,
    /// Says that it has less than it was given.
    is_torn: AtomicBool,
    puts: AtomicU32,
    /// Who puts something waits for one of these.
    turns: Semaphore,
}

impl Memory {
    fn new() -> Arc<Self> {
        let (is_down, is_torn, puts) = Default::default();
        Arc::new(Self { objects: Mutex::default(), is_down, is_torn, puts, turns: Semaphore::new(1) })
    }

    fn table(&self) -> Result<std::sync::MutexGuard<'_, BTreeMap<String, Vec<u8>>>, ObjectError> {
        if self.is_down.load(Relaxed) {
            return Err(ObjectError::Failed("it is down".to_owned()));
        }
        Ok(self.objects.lock().unwrap())
    }

    fn names(&self) -> Vec<String> {
        self.objects.lock().unwrap().keys().cloned().collect()
    }
}

impl Objects for Memory {
    fn put<'a>(&'a self, name: &'a str, mut file: File) -> Answer<'a, ()> {
        Box::pin(async move {
            self.puts.fetch_add(1, Relaxed);
            let _turn = self.turns.acquire().await.unwrap();
            let mut bytes = Vec::new();
            file.read_to_end(&mut bytes).unwrap();
            self.table()?.insert(name.to_owned(), bytes);
            Ok(())
        })
    }

    fn get<'a>(&'a self, name: &'a str, range: Range<u64>) -> Answer<'a, Vec<u8>> {
        Box::pin(async move {
            let table = self.table()?;
            let object = table.get(name).ok_or(ObjectError::Missing)?;
            Ok(object[range.start as usize..range.end as usize].to_vec())
        })
    }

    fn size<'a>(&'a self, name: &'a str) -> Answer<'a, u64> {
        Box::pin(async move {
            let bytes = self.table()?.get(name).ok_or(ObjectError::Missing)?.len() as u64;
            Ok(bytes - u64::from(self.is_torn.load(Relaxed)))
        })
    }

    fn delete<'a>(&'a self, name: &'a str) -> Answer<'a, ()> {
        Box::pin(async move {
            self.table()?.remove(name);
            Ok(())
        })
    }
}

fn path(world: &World, number: u128) -> PathBuf {
    rows::audio_path(&rows::folder(world.folder.path()), &call(number).to_string())
}

async fn stored(world: &World, number: u128) -> String {
    let store = world.store().await;
    let query = sqlx::query_scalar("SELECT stored FROM recordings WHERE id = ?").bind(call(number).to_string());
    query.fetch_one(&store.pool).await.unwrap()
}

async fn until_stored(world: &World, number: u128, wanted: &str) {
    let began = Instant::now();
    while stored(world, number).await != wanted {
        assert!(began.elapsed() < Duration::from_secs(20), "{number} is not {wanted}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// A recording goes up, is heard from there as it was from here, and goes with its key.
async fn check(objects: Arc<dyn Objects>) {
    let world = World::with_objects(Some(Arc::clone(&objects))).await;
    record(&world).await;
    for number in [1, 2] {
        until_stored(&world, number, "s3").await;
        assert!(!path(&world, number).exists());
    }
    let admin = world.admin.clone();
    let whole = fetch(&world, "GET", &media(""), &admin, "").await;
    assert_eq!(whole.status, 200);
    assert!(Wav::parse(&whole.body).unwrap().audio == whole_audio(FRAMES));
    let total = whole.body.len();
    for (first, last) in [(0, 0), (44, 45), (65_000, 66_000), (30_000, 150_000), (total - 3, total - 1)] {
        let part = fetch(&world, "GET", &media(""), &admin, &format!("Range: bytes={first}-{last}\r\n")).await;
        assert_eq!(part.status, 206);
        assert!(part.body == whole.body[first..=last], "{first}-{last}");
    }
    let head = fetch(&world, "HEAD", &media(""), &admin, "").await;
    assert!(head.head.contains(&format!("content-length: {total}")), "{}", head.head);
    let ogg = fetch(&world, "GET", &media("?format=ogg"), &admin, "").await;
    assert!(ogg.body.starts_with(b"OggS"), "{}", ogg.head);

    let id = call(1).to_string();
    let name = rows::object_name(&id);
    let bytes = objects.size(&name).await.unwrap();
    let object = objects.get(&name, 0..bytes).await.unwrap();
    assert!(!object.windows(32).any(|window| window == &whole_audio(1)[..32]), "the store hears it");

    assert_eq!(world.request("DELETE", &format!("/v1/recordings/{id}"), &admin).await.status, 204);
    until_stored(&world, 1, "gone").await;
    assert_eq!((objects.size(&name).await, stored(&world, 2).await), (Err(ObjectError::Missing), "s3".to_owned()));
    assert_eq!(fetch(&world, "GET", &media(""), &admin, "").await.status, 410);
}

#[tokio::test]
async fn a_recording_in_an_object_store_is_like_any_other() {
    check(Memory::new()).await;
}

#[tokio::test]
async fn a_store_that_fails_while_one_listens_is_told() {
    let memory = Memory::new();
    let world = World::with_objects(Some(memory.clone())).await;
    record(&world).await;
    until_stored(&world, 1, "s3").await;
    until_stored(&world, 2, "s3").await;
    let figures =
        ["tipring_side_uploads_total 2", "tipring_side_upload_failures_total 0", "tipring_side_uploads_waiting 0"];
    world.until("/metrics", |text| figures.iter().all(|line| text.body.lines().any(|found| found == *line))).await;
    memory.is_down.store(true, Relaxed);
    let admin = world.admin.clone();
    let got = fetch(&world, "GET", &media(""), &admin, "").await;
    assert_eq!(got.status, 503);
    assert!(got.head.contains("retry-after: "), "{}", got.head);
    // The key is gone at once, the object when it can.
    assert_eq!(world.request("DELETE", &format!("/v1/recordings/{}", call(1)), &admin).await.status, 204);
    assert_eq!((stored(&world, 1).await, memory.names().len()), ("s3".to_owned(), 2));
    memory.is_down.store(false, Relaxed);
    let shelf = shelf(&world, &memory).await;
    sweep::sweep(&world.store().await, &shelf).await.unwrap();
    assert_eq!((stored(&world, 1).await, memory.names().len()), ("gone".to_owned(), 1));
    // Whoever takes the store out of the configuration is told where the audio is.
    let without = Shelf::new(world.store().await, key(&world), world.folder.path());
    assert!(without.remove(&call(2).to_string()).await.is_err());
}

fn key(world: &World) -> Arc<NodeKey> {
    Arc::new(NodeKey::open(&world.folder.path().join("node.key")).unwrap())
}

async fn shelf(world: &World, memory: &Arc<Memory>) -> Arc<Shelf> {
    let shelf = Shelf::new(world.store().await, key(world), world.folder.path());
    Arc::new(shelf.with_objects(Some(memory.clone())))
}

/// A world whose node leaves recordings in their folder, and who takes them from there.
async fn uploader() -> (World, Arc<Memory>, Arc<Counts>, Uploader) {
    let (world, memory, counts) = (World::new().await, Memory::new(), Arc::<Counts>::default());
    record(&world).await;
    let uploader = Uploader::new(shelf(&world, &memory).await, Arc::clone(&counts));
    (world, memory, counts, uploader)
}

#[tokio::test]
async fn a_store_that_is_down_or_loses_a_byte_takes_nothing_from_here() {
    let (world, memory, counts, mut uploader) = uploader().await;
    memory.is_down.store(true, Relaxed);
    assert!(uploader.round().await.is_err());
    memory.is_down.store(false, Relaxed);
    memory.is_torn.store(true, Relaxed);
    assert!(uploader.round().await.is_err());
    for number in [1, 2] {
        assert!(path(&world, number).exists());
        assert_eq!(stored(&world, number).await, "folder");
    }
    assert_eq!((counts.waiting.load(Relaxed), counts.done.load(Relaxed)), (2, 0));
    assert!(counts.failures.load(Relaxed) >= 2);
    assert_eq!(fetch(&world, "GET", &media(""), &world.admin, "").await.status, 200);
    memory.is_torn.store(false, Relaxed);
    uploader.round().await.unwrap();
    assert_eq!((counts.waiting.load(Relaxed), counts.done.load(Relaxed)), (0, 2));
    assert_eq!((stored(&world, 1).await, stored(&world, 2).await), ("s3".to_owned(), "s3".to_owned()));
}

#[tokio::test]
async fn killed_on_the_way_it_goes_on_from_there() {
    let (world, memory, _, mut uploader) = uploader().await;
    let file = std::fs::read(path(&world, 1)).unwrap();
    uploader.round().await.unwrap();
    let puts = memory.puts.load(Relaxed);
    // As it is before the file is removed, and before it is known that the store has all of it.
    for (stored_before, more) in [("both", 0), ("folder", 1)] {
        std::fs::write(path(&world, 1), &file).unwrap();
        let store = world.store().await;
        let query = sqlx::query("UPDATE recordings SET stored = ? WHERE id = ?").bind(stored_before);
        query.bind(call(1).to_string()).execute(&store.pool).await.unwrap();
        uploader.round().await.unwrap();
        assert_eq!((stored(&world, 1).await, path(&world, 1).exists()), ("s3".to_owned(), false));
        assert_eq!(memory.puts.load(Relaxed), puts + more, "{stored_before}");
    }
    assert_eq!(memory.names().len(), 2);
}

#[tokio::test]
async fn what_is_deleted_on_its_way_is_deleted_there() {
    let (world, memory, ..) = uploader().await;
    let shelf = shelf(&world, &memory).await;
    let turn = memory.turns.acquire().await.unwrap();
    let id = call(1).to_string();
    let upload = {
        let mut uploader = Uploader::new(Arc::clone(&shelf), Arc::default());
        tokio::spawn(async move { uploader.round().await })
    };
    while memory.puts.load(Relaxed) < 2 {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    assert_eq!(shelf.delete(&id).await.unwrap(), Deletion::Done);
    drop(turn);
    upload.await.unwrap().unwrap();
    assert_eq!((stored(&world, 1).await, path(&world, 1).exists()), ("gone".to_owned(), false));
    assert_eq!((stored(&world, 2).await, memory.names().len()), ("s3".to_owned(), 1));
}

#[tokio::test]
async fn one_whose_file_is_gone_does_not_stop_the_others() {
    let (world, memory, counts, mut uploader) = uploader().await;
    std::fs::remove_file(path(&world, 1)).unwrap();
    for _ in 0..2 {
        uploader.round().await.unwrap();
        assert_eq!((counts.failures.load(Relaxed), counts.done.load(Relaxed)), (1, 1));
    }
    assert_eq!((stored(&world, 1).await, stored(&world, 2).await), ("folder".to_owned(), "s3".to_owned()));
    assert_eq!(memory.names().len(), 1);
}

#[tokio::test]
async fn one_that_is_damaged_stays_here_and_does_not_stop_the_others() {
    let (world, memory, counts, mut uploader) = uploader().await;
    let mut bytes = std::fs::read(path(&world, 1)).unwrap();
    *bytes.last_mut().unwrap() ^= 1;
    std::fs::write(path(&world, 1), bytes).unwrap();
    for _ in 0..2 {
        uploader.round().await.unwrap();
        assert_eq!((counts.failures.load(Relaxed), counts.done.load(Relaxed)), (1, 1));
    }
    assert_eq!((stored(&world, 1).await, stored(&world, 2).await), ("folder".to_owned(), "s3".to_owned()));
    assert_eq!((memory.names().len(), path(&world, 1).exists()), (1, true));
    let item = world.get(&format!("/v1/recordings/{}", call(1))).await.json();
    assert_eq!(item["verdict"], "damaged", "{item}");
    assert_eq!(counts.waiting.load(Relaxed), 0, "nobody can bring it there");
}

/// The server that `TIPRING_TEST_S3` names by its URL. It has a bucket `recordings` for a key.
#[cfg(feature = "s3")]
pub(crate) fn real_server() -> S3 {
    let key = |name: &str, default: &str| std::env::var(name).unwrap_or_else(|_| default.to_owned());
    S3 {
        bucket: "recordings".to_owned(),
        prefix: "tests".to_owned(),
        endpoint: std::env::var("TIPRING_TEST_S3").expect("TIPRING_TEST_S3 names a server"),
        region: "us-east-1".to_owned(),
        access_key: Secret::Text(key("TIPRING_TEST_S3_KEY", "test")),
        secret_key: Secret::Text(key("TIPRING_TEST_S3_SECRET", "test-secret")),
    }
}

#[cfg(feature = "s3")]
#[tokio::test]
#[ignore = "needs a server that speaks S3, named by TIPRING_TEST_S3"]
async fn a_recording_on_a_real_server_is_like_any_other() {
    check(Arc::new(Bucket::new(&real_server()).unwrap())).await;
}
