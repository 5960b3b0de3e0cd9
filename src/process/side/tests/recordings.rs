//! Recordings from the tape to the API.

use std::sync::Arc;
use std::time::Duration;

use serde_json::Value;
use tokio::io::AsyncReadExt;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;
use tokio::runtime::Handle;

use crate::base::id::ShardId;
use crate::process::config::Retain;
use crate::process::side::recording::finisher::Done;
use crate::process::side::recording::finisher::Finisher;
use crate::process::side::recording::finisher::Job;
use crate::process::side::recording::finisher::Known;
use crate::process::side::recording::rows;
use crate::process::side::recording::rows::Deletion;
use crate::process::side::recording::rows::Shelf;
use crate::process::side::recording::scrub;
use crate::process::side::recording::sweep;
use crate::process::side::recording::tail::Separator;
use crate::process::side::recording::tests::Tape;
use crate::process::side::recording::tests::begun_call;
use crate::process::side::recording::tests::call;
use crate::process::side::recording::tests::end_call;
use crate::process::side::recording::tests::whole_audio;
use crate::process::side::recording::tests::whole_call;
use crate::process::side::recording::work::Chunks;
use crate::process::side::recording::work::Place;
use crate::process::side::seal::NodeKey;
use crate::process::side::tests::world::DIRECTORY;
use crate::process::side::tests::world::World;
use crate::process::side::token::Role;
use crate::wire::g711::Law;
use crate::wire::wav::Encoding;
use crate::wire::wav::Wav;

pub(super) const FRAMES: u64 = 500;

/// A world with a recording of acme and one of beta.
async fn world_with_recordings() -> World {
    let world = World::new().await;
    record(&world).await;
    world
}

pub(super) async fn record(world: &World) {
    let mut tape = Tape::new(world.folder.path());
    whole_call(&mut tape, call(1), "acme", FRAMES);
    whole_call(&mut tape, call(2), "beta", 10);
    let (segment, limit) = *tape.ends.last().unwrap();
    separate(world, segment, limit).await;
}

/// What the thread that reads the tapes does.
async fn separate(world: &World, segment: u64, limit: u64) {
    let (data, live) = (world.folder.path().to_owned(), Arc::clone(&world.node.as_ref().unwrap().metrics.live));
    let separate = move |done, key| {
        let finisher = Finisher::new(rows::folder(&data), done, Arc::clone(&live), Arc::default());
        Separator::new(&data, key, finisher, live).unwrap().read(ShardId(0), segment, limit).unwrap();
    };
    with_database(world, separate).await;
}

async fn with_database<R: Send + 'static>(
    world: &World,
    work: impl FnOnce(rows::Database, Arc<NodeKey>) -> R + Send + 'static,
) -> R {
    let (store, handle) = (world.store().await, Handle::current());
    let key = Arc::new(NodeKey::open(&world.folder.path().join("node.key")).unwrap());
    let work = move || work(rows::Database::new(store, Arc::clone(&key), handle), key);
    tokio::task::spawn_blocking(work).await.unwrap()
}

pub(super) struct Got {
    pub(super) status: u16,
    pub(super) head: String,
    pub(super) body: Vec<u8>,
}

pub(super) async fn fetch(world: &World, method: &str, path: &str, token: &str, headers: &str) -> Got {
    let request = format!(
        "{method} {path} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {token}\r\n{headers}Connection: close\r\n\r\n"
    );
    let mut stream = TcpStream::connect(world.address).await.unwrap();
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut bytes = Vec::new();
    stream.read_to_end(&mut bytes).await.unwrap();
    let end = bytes.windows(4).position(|window| window == b"\r\n\r\n").unwrap();
    let head = String::from_utf8(bytes[..end].to_vec()).unwrap().to_lowercase();
    Got { status: head[9..12].parse().unwrap(), head, body: bytes[end + 4..].to_vec() }
}

pub(super) fn media(query: &str) -> String {
    format!("/v1/recordings/{}/media{query}", call(1))
}

#[tokio::test]
async fn a_recording_is_listed_and_proves_itself() {
    let world = world_with_recordings().await;
    let items = world.get(&format!("/v1/recordings?call={}", call(1))).await.items();
    assert_eq!(items.len(), 1);
    let item = &items[0];
    assert_eq!((item["state"].as_str(), item["verdict"].as_str()), (Some("completed"), Some("complete")));
    assert_eq!((item["duration_ms"].as_u64(), item["tenant"].as_str()), (Some(10_000), Some("acme")));
    assert_eq!(item["started_at"].as_str(), Some("2023-11-14T22:13:20.000Z"));
    let parties: Vec<_> = item["ledger"].as_array().unwrap().iter().map(|line| line["party"].clone()).collect();
    assert_eq!(parties, ["caller", "callee"]);
    assert!(item["ledger"].as_array().unwrap().iter().all(|line| line["written"] == FRAMES && line["lost"] == 0));
    let one = world.get(&format!("/v1/recordings/{}", call(1))).await.json();
    assert_eq!(&one, item);
    let page = world.get("/v1/recordings?limit=1").await;
    assert_eq!(page.column("tenant"), ["beta"]);
    let next = world.get(&format!("/v1/recordings?limit=1&cursor={}", page.next().unwrap())).await;
    assert_eq!((next.column("tenant"), next.next()), (vec!["acme".to_owned()], None));
    let count = async |query: &str| world.get(&format!("/v1/recordings?{query}")).await.items().len();
    assert_eq!(count("since=2023-11-14T22:13:20Z&until=2023-11-14T22:13:21Z").await, 2);
    assert_eq!(count("until=2023-11-14T22:13:20Z").await, 0);
    assert_eq!(count("tenant=beta").await, 1);
    assert_eq!(count("sip_call_id=nobody").await, 0);
    assert_eq!(world.get("/v1/recordings?colour=red").await.status, 400);
    let peaks = world.get(&format!("/v1/recordings/{}/peaks", call(1))).await.json();
    assert_eq!((peaks["stretch_ms"].as_u64(), peaks["left"].as_array().map(Vec::len)), (Some(20), Some(500)));
}

#[tokio::test]
async fn the_audio_is_given_whole_in_parts_and_in_views() {
    use sha2::Digest;
    let world = world_with_recordings().await;
    let admin = world.admin.clone();
    let stereo = fetch(&world, "GET", &media(""), &admin, "").await;
    assert_eq!(stereo.status, 200);
    let wav = Wav::parse(&stereo.body).unwrap();
    assert_eq!((wav.format.encoding, wav.format.channels), (Encoding::G711(Law::A), 2));
    assert!(wav.audio == whole_audio(FRAMES));
    let digest: String = sha2::Sha256::digest(&stereo.body).iter().map(|byte| format!("{byte:02x}")).collect();
    let item: Value = world.get(&format!("/v1/recordings/{}", call(1))).await.json();
    assert_eq!(item["sha256"], digest);

    for (query, channels, encoding) in [
        ("?channels=left", 1, Encoding::G711(Law::A)),
        ("?channels=right&format=wav", 1, Encoding::G711(Law::A)),
        ("?channels=mono", 1, Encoding::Pcm16),
        ("?format=pcm", 2, Encoding::Pcm16),
    ] {
        let whole = fetch(&world, "GET", &media(query), &admin, "").await;
        let view = Wav::parse(&whole.body).unwrap();
        assert_eq!(
            (view.format.channels, view.format.encoding, view.len()),
            (channels, encoding, wav.len()),
            "{query}"
        );
        assert!(!view.is_cut);
        if query.contains("left") {
            assert!(view.samples(0).eq(wav.samples(0)));
        }
        if query.contains("right") {
            assert!(view.samples(0).eq(wav.samples(1)));
        }
        let total = whole.body.len();
        for (first, last) in [(0, 0), (3, 70), (57, 60), (44, 45), (30_001, 70_000), (total - 3, total - 1)] {
            let range = format!("Range: bytes={first}-{last}\r\n");
            let part = fetch(&world, "GET", &media(query), &admin, &range).await;
            assert_eq!(part.status, 206, "{query} {range}");
            assert!(part.body == whole.body[first..=last], "{query} {range}");
            assert!(part.head.contains(&format!("content-range: bytes {first}-{last}/{total}")), "{}", part.head);
        }
        let head = fetch(&world, "HEAD", &media(query), &admin, "").await;
        assert_eq!((head.status, head.body.len()), (200, 0));
        assert!(head.head.contains(&format!("content-length: {total}")), "{}", head.head);
    }
    let total = stereo.body.len();
    for (range, status, len) in [
        ("bytes=-100", 206, 100),
        (&format!("bytes={}-", total - 5), 206, 5),
        (&format!("bytes=0-{}", total * 2), 206, total),
        (&format!("bytes={total}-"), 416, 0),
        ("bytes=9-3", 416, 0),
        ("bytes=-0", 416, 0),
        ("bytes=x-y", 416, 0),
        ("bytes=99999999999999999999-", 416, 0),
        ("bytes=0-1,5-6", 200, total),
        ("lines=1-2", 200, total),
    ] {
        let got = fetch(&world, "GET", &media(""), &admin, &format!("Range: {range}\r\n")).await;
        assert_eq!((got.status, got.body.len()), (status, len), "{range}");
    }
    let tag = stereo.head.lines().find_map(|line| line.strip_prefix("etag: ")).unwrap();
    let same = fetch(&world, "GET", &media(""), &admin, &format!("If-None-Match: {tag}\r\n")).await;
    assert_eq!((same.status, same.body.len()), (304, 0));
    let other = "If-Range: \"other\"\r\nRange: bytes=0-1\r\n";
    assert_eq!(fetch(&world, "GET", &media(""), &admin, other).await.status, 200);
    assert_eq!(world.get(&media("?channels=5.1")).await.status, 400);
    assert_eq!(world.get(&media("?format=mp3")).await.status, 400);
}

#[tokio::test]
async fn nobody_hears_what_is_not_his_and_every_access_is_noted() {
    let world = world_with_recordings().await;
    let beta = world.token("beta", Role::Recordings, Some(&["beta"])).await;
    let reader = world.token("reader", Role::Read, None).await;
    assert_eq!(world.get_as(&beta, "/v1/recordings").await.column("tenant"), ["beta"]);
    assert_eq!(world.get_as(&beta, "/v1/recordings?tenant=acme").await.items().len(), 0);
    for path in [media(""), format!("/v1/recordings/{}", call(1)), format!("/v1/recordings/{}/peaks", call(1))] {
        assert_eq!(world.get_as(&beta, &path).await.status, 404, "{path}");
        assert_eq!(world.get_as(&reader, &path).await.status, 403, "{path}");
        assert_eq!(world.get_as("", &path).await.status, 401, "{path}");
    }
    for path in ["/v1/recordings/..%2f..%2ftoken/media", "/v1/recordings/%00/media", "/v1/recordings/x"] {
        assert_eq!(world.get(path).await.status, 404, "{path}");
    }
    let one = format!("/v1/recordings/{}", call(1));
    assert_eq!(world.request("DELETE", &one, &beta).await.status, 403);
    fetch(&world, "GET", &media(""), &world.admin, "").await;
    let audit = world.get("/v1/audit").await;
    let reads = audit.items().iter().filter(|item| item["action"] == "recording.read").count();
    assert_eq!(reads, 1);
}

#[tokio::test]
async fn a_deleted_recording_is_gone_and_a_held_one_is_not() {
    let world = world_with_recordings().await;
    let one = format!("/v1/recordings/{}", call(1));
    let hold = format!("{one}/hold");
    assert_eq!(world.request("PUT", &hold, &world.admin).await.status, 204);
    assert_eq!(world.request("DELETE", &one, &world.admin).await.status, 409);
    assert_eq!(fetch(&world, "GET", &media(""), &world.admin, "").await.status, 200);
    assert_eq!(world.request("DELETE", &hold, &world.admin).await.status, 204);
    assert_eq!(world.request("DELETE", &one, &world.admin).await.status, 204);
    assert_eq!(world.get(&media("")).await.status, 410);
    assert_eq!(world.get(&one).await.json()["state"], "absent");
    let path = rows::audio_path(&rows::folder(world.folder.path()), &call(1).to_string());
    assert!(!path.exists());
    let wish = format!("/v1/calls/{}/recording/", call(9));
    assert_eq!(world.request("POST", &format!("{wish}pause"), &world.admin).await.status, 404);
    assert_eq!(world.request("POST", &format!("{wish}sing"), &world.admin).await.status, 404);
}

/// A call of acme whose recording was tried in vain.
async fn given_up(world: &World) -> Tape {
    let mut tape = Tape::new(world.folder.path());
    begun_call(&mut tape, call(1), "acme", 10);
    // The segment is finished, so its records are in the store.
    separate(world, 2, 0).await;
    let work = rows::work_folder(&rows::folder(world.folder.path()));
    with_database(world, move |done, key| {
        let id = call(1).to_string();
        let store = Arc::new(Chunks::open(&work, &id, &key).unwrap().unwrap());
        let job = Job::new(call(1), 1, Place { boot: 7, block: 1, record: 0 }, store, 1);
        done.give_up(&job, "it panicked").unwrap();
        assert_eq!(done.known(&id).unwrap(), Known::Failed);
    })
    .await;
    tape
}

#[tokio::test]
async fn a_recording_that_could_not_be_made_says_so_and_may_still_come() {
    let world = World::new().await;
    let mut tape = given_up(&world).await;
    let (id, folder) = (call(1).to_string(), rows::work_folder(&rows::folder(world.folder.path())));
    world.node.as_ref().unwrap().metrics.live.on_gone(&id);
    let one = format!("/v1/recordings/{id}");
    let item = world.get(&one).await.json();
    assert_eq!((item["state"].as_str(), item["failure"].as_str()), (Some("failed"), Some("it panicked")));
    assert_eq!((item["tenant"].as_str(), item["verdict"].as_str()), (Some("acme"), None));
    assert_eq!(item["started_at"], "2023-11-14T22:13:20.000Z");
    assert_eq!(world.get(&media("")).await.status, 409);
    assert_eq!(world.get(&format!("{one}/peaks")).await.status, 409);
    let audit = world.get("/v1/audit").await.items();
    let reads: Vec<_> = audit.iter().filter(|item| item["action"] == "recording.read").collect();
    assert_eq!((reads.len(), reads[0]["outcome"].as_str()), (1, Some("failed")));

    // The next process tries again, and this time it can be made.
    end_call(&mut tape, call(1), 10);
    let (segment, limit) = *tape.ends.last().unwrap();
    separate(&world, segment, limit).await;
    let item = world.get(&one).await.json();
    assert_eq!((item["state"].as_str(), item["failure"].as_str()), (Some("completed"), None));
    assert_eq!(fetch(&world, "GET", &media(""), &world.admin, "").await.status, 200);
    assert_eq!(std::fs::read_dir(folder).unwrap().count(), 0);
}

#[tokio::test]
async fn what_failed_is_deleted_with_its_store() {
    let world = World::new().await;
    given_up(&world).await;
    let (id, folder) = (call(1).to_string(), rows::work_folder(&rows::folder(world.folder.path())));
    let one = format!("/v1/recordings/{id}");
    assert_eq!(world.request("DELETE", &one, &world.admin).await.status, 204);
    assert_eq!(world.get(&one).await.json()["state"], "absent");
    assert_eq!(std::fs::read_dir(folder).unwrap().count(), 0);
    let key = Arc::new(NodeKey::open(&world.folder.path().join("node.key")).unwrap());
    let shelf = Shelf::new(world.store().await, key, world.folder.path());
    assert_eq!(shelf.delete("nobody").await.unwrap(), Deletion::Missing);
}

#[tokio::test]
async fn a_call_that_is_up_is_listed_and_heard_so_far() {
    let world = World::new().await;
    let mut tape = Tape::new(world.folder.path());
    whole_call(&mut tape, call(2), "beta", 10);
    begun_call(&mut tape, call(1), "acme", 200);
    let (segment, limit) = *tape.ends.last().unwrap();
    separate(&world, segment, limit).await;
    let one = format!("/v1/recordings/{}", call(1));
    let item = world.get(&one).await.json();
    assert_eq!((item["state"].as_str(), item["tenant"].as_str()), (Some("recording"), Some("acme")));
    assert!(item["verdict"].is_null() && item["sha256"].is_null(), "{item}");
    let listed = world.get("/v1/recordings").await;
    assert_eq!(listed.column("state"), ["completed", "recording"]);
    let page = world.get("/v1/recordings?limit=1").await;
    assert_eq!(page.column("tenant"), ["beta"]);
    let next = world.get(&format!("/v1/recordings?limit=1&cursor={}", page.next().unwrap())).await;
    assert_eq!((next.column("state"), next.next()), (vec!["recording".to_owned()], None));
    for (query, count) in [
        ("tenant=acme", 1),
        ("until=2023-11-14T22:13:20Z", 0),
        ("since=2023-11-14T22:13:20Z", 2),
        ("sip_call_id=no", 0),
    ] {
        assert_eq!(world.get(&format!("/v1/recordings?{query}")).await.items().len(), count, "{query}");
    }
    assert_eq!(world.get(&format!("/v1/recordings?call={}", call(1))).await.items().len(), 1);

    // The store has them all: its separator is gone, as if side was killed.
    let admin = world.admin.clone();
    let so_far = fetch(&world, "GET", &media(""), &admin, "").await;
    assert_eq!(so_far.status, 200);
    let wav = Wav::parse(&so_far.body).unwrap();
    assert!(!wav.audio.is_empty() && whole_audio(200).starts_with(wav.audio));
    let part = fetch(&world, "GET", &media(""), &admin, "Range: bytes=100-199\r\n").await;
    assert_eq!((part.status, part.body.as_slice()), (206, &so_far.body[100..200]));
    let peaks = world.get(&format!("{one}/peaks")).await.json();
    assert!(peaks["left"].as_array().is_some_and(|left| !left.is_empty()));
    let beta = world.token("beta", Role::Recordings, Some(&["beta"])).await;
    assert_eq!(world.get_as(&beta, &media("")).await.status, 404);
    assert_eq!(world.get_as(&beta, "/v1/recordings").await.column("tenant"), ["beta"]);
    assert_eq!(world.request("DELETE", &one, &admin).await.status, 409);
    assert_eq!(world.request("PUT", &format!("{one}/hold"), &admin).await.status, 409);

    end_call(&mut tape, call(1), 200);
    let (segment, limit) = *tape.ends.last().unwrap();
    separate(&world, segment, limit).await;
    let item = world.get(&one).await.json();
    assert_eq!((item["state"].as_str(), item["verdict"].as_str()), (Some("completed"), Some("complete")));
    let causes: Vec<_> = item["segments"].as_array().unwrap().iter().map(|one| one["cause"].clone()).collect();
    assert_eq!(causes, ["begin", "begin"]);
    let whole = fetch(&world, "GET", &media(""), &admin, "").await;
    assert!(Wav::parse(&whole.body).unwrap().audio == whole_audio(200));
}

#[tokio::test]
async fn recordings_are_kept_as_long_as_their_tenant_says() {
    let world = world_with_recordings().await;
    let mut tape = Tape::new(world.folder.path());
    tape.boot = 9;
    whole_call(&mut tape, call(3), "acme", 10);
    let (segment, limit) = *tape.ends.last().unwrap();
    separate(&world, segment, limit).await;
    let store = world.store().await;
    let key = Arc::new(NodeKey::open(&world.folder.path().join("node.key")).unwrap());
    let shelf = Shelf::new(store.clone(), key, world.folder.path());
    assert_eq!(sweep::sweep(&store, &shelf).await.unwrap(), 0);

    // All of them are of 2023; one of the two of acme is held.
    let directory = DIRECTORY.replace("domain = \"acme.test\"", "domain = \"acme.test\"\nrecording_days = 30");
    std::fs::write(world.folder.path().join("directory.toml"), directory).unwrap();
    let settings = world.settings();
    world.node.as_ref().unwrap().reload(settings.retain, settings.import.as_deref()).await;
    let hold = format!("/v1/recordings/{}/hold", call(3));
    assert_eq!(world.request("PUT", &hold, &world.admin).await.status, 204);
    assert_eq!(sweep::sweep(&store, &shelf).await.unwrap(), 1);
    let list = world.get("/v1/recordings").await;
    assert_eq!(
        (list.column("state"), list.column("tenant")),
        (
            ["completed", "completed", "absent"].map(str::to_owned).to_vec(),
            ["acme", "beta", "acme"].map(str::to_owned).to_vec(),
        )
    );
    assert_eq!(world.get(&media("")).await.status, 410);
    assert!(!rows::audio_path(&rows::folder(world.folder.path()), &call(1).to_string()).exists());
    let audit = world.get("/v1/audit").await.items();
    let expired: Vec<_> = audit.iter().filter(|item| item["action"] == "recording.expire").collect();
    assert_eq!((expired.len(), expired[0]["actor"].as_str()), (1, Some("retention")));
    assert_eq!(expired[0]["subject"].as_str(), Some(call(1).to_string().as_str()));

    // Without a hold it goes; what is left of both goes with the call records.
    assert_eq!(world.request("DELETE", &hold, &world.admin).await.status, 204);
    assert_eq!(sweep::sweep(&store, &shelf).await.unwrap(), 1);
    let day = Duration::from_secs(86_400);
    crate::process::side::retain::sweep(&store, &Retain { cdrs: day, ..settings.retain }).await.unwrap();
    assert_eq!(world.get("/v1/recordings").await.column("tenant"), ["beta"]);
}

#[tokio::test]
async fn no_key_of_a_deleted_recording_is_left_in_the_database() {
    let world = world_with_recordings().await;
    let store = world.store().await;
    let sealed: Vec<u8> = sqlx::query_scalar("SELECT key FROM recordings WHERE id = ?")
        .bind(call(1).to_string())
        .fetch_one(&store.pool)
        .await
        .unwrap();
    let files = || {
        let entries = std::fs::read_dir(world.folder.path()).unwrap().flatten();
        let database = entries.filter(|entry| entry.file_name().to_string_lossy().starts_with("tipring.db"));
        let bytes: Vec<u8> = database.flat_map(|entry| std::fs::read(entry.path()).unwrap()).collect();
        bytes.windows(sealed.len()).any(|window| window == sealed)
    };
    assert!(files());
    assert_eq!(world.request("DELETE", &format!("/v1/recordings/{}", call(1)), &world.admin).await.status, 204);
    let key = Arc::new(NodeKey::open(&world.folder.path().join("node.key")).unwrap());
    sweep::sweep(&store, &Shelf::new(store.clone(), key, world.folder.path())).await.unwrap();
    // Somebody who reads longer keeps the log as it is, and that is noticed.
    let mut reader = store.pool.begin().await.unwrap();
    let _: i64 = sqlx::query_scalar("SELECT COUNT(*) FROM recordings").fetch_one(&mut *reader).await.unwrap();
    world.token("another", Role::Read, None).await;
    assert!(!sweep::forget(&store).await.unwrap());
    reader.rollback().await.unwrap();
    assert!(sweep::forget(&store).await.unwrap());
    assert!(!files());
}

#[tokio::test]
async fn a_recording_is_given_as_ogg_whole_and_in_parts() {
    let world = world_with_recordings().await;
    let admin = world.admin.clone();
    for query in ["?format=ogg", "?format=ogg&channels=mono"] {
        let whole = fetch(&world, "GET", &media(query), &admin, "").await;
        assert_eq!(whole.status, 200, "{}", whole.head);
        assert!(whole.head.contains("content-type: audio/ogg"), "{}", whole.head);
        assert!(whole.body.starts_with(b"OggS") && whole.body.len() > 10_000);
        let reader = opus_pure::OggOpusReader::new(std::io::Cursor::new(&whole.body)).unwrap();
        assert_eq!(reader.head().channel_count, if query.contains("mono") { 1 } else { 2 });
        let total = whole.body.len();
        for (first, last) in [(0, 3), (9_000, 10_000), (total - 5, total - 1)] {
            let range = format!("Range: bytes={first}-{last}\r\n");
            let part = fetch(&world, "GET", &media(query), &admin, &range).await;
            assert_eq!(part.status, 206);
            assert!(part.body == whole.body[first..=last], "{range}");
        }
        for range in ["", "Range: bytes=0-3\r\n"] {
            let head = fetch(&world, "HEAD", &media(query), &admin, range).await;
            assert_eq!((head.status, head.body.len()), (200, 0), "{range}");
            assert!(head.head.contains(&format!("content-length: {total}")), "{}", head.head);
        }
        let tag = whole.head.lines().find_map(|line| line.strip_prefix("etag: ")).unwrap();
        let same = fetch(&world, "GET", &media(query), &admin, &format!("If-None-Match: {tag}\r\n")).await;
        assert_eq!(same.status, 304);
        assert_eq!(fetch(&world, "GET", &media(query), &admin, "Range: bytes=9999999-\r\n").await.status, 416);
    }
}

#[tokio::test]
async fn audio_that_a_disk_changed_is_damaged_from_the_moment_it_is_found() {
    for finder in ["reader", "scrub", "cut"] {
        let world = world_with_recordings().await;
        let id = call(1).to_string();
        let path = rows::audio_path(&rows::folder(world.folder.path()), &id);
        let key = Arc::new(NodeKey::open(&world.folder.path().join("node.key")).unwrap());
        let shelf = Shelf::new(world.store().await, key, world.folder.path());
        let forget = async || {
            sqlx::query("DELETE FROM meta WHERE key = 'scrub'").execute(&world.store().await.pool).await.unwrap();
        };
        // The node has begun a round of its own when there was nothing.
        forget().await;
        let verdict = async || world.get(&format!("/v1/recordings/{id}")).await.json()["verdict"].clone();
        assert!(scrub::round(&shelf, Duration::ZERO).await.unwrap());
        assert!(!scrub::round(&shelf, Duration::ZERO).await.unwrap(), "once a day");
        assert_eq!(verdict().await, "complete");
        let mut bytes = std::fs::read(&path).unwrap();
        if finder == "cut" {
            bytes.truncate(100);
        } else {
            *bytes.last_mut().unwrap() ^= 1;
        }
        std::fs::write(&path, bytes).unwrap();
        if finder == "reader" {
            fetch(&world, "GET", &media(""), &world.admin, "").await;
        } else {
            forget().await;
            assert!(scrub::round(&shelf, Duration::ZERO).await.unwrap());
        }
        assert_eq!(verdict().await, "damaged", "{finder}");
    }
}
