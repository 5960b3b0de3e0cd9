//! Figures add up, travel, and keep their tables small.

use serde_json::Value;

use super::*;

fn some(seed: u64) -> Figures {
    let mut figures = Figures { phones: seed, calls: 2 * seed, registered_now: 1, ..Figures::default() };
    figures.setup_delay.record(seed * 1_000);
    figures.media.mos.record(4_000 + seed);
    figures.media.sent = 10 * seed;
    figures.end(Outcome::Completed);
    figures.end(Outcome::ALL[seed as usize % 7]);
    figures.fail("INVITE: 503");
    figures.responses.insert(200, seed);
    figures
}

/// The counters of figures in their JSON, those of the media included.
fn numbers<'a>(form: &'a mut Value) -> impl Iterator<Item = &'a mut Value> {
    let is_media = |value: &Value| value.get("streams").is_some();
    let of = |value: &'a mut Value| match value {
        Value::Object(fields) => fields.values_mut().collect(),
        _ => Vec::new(),
    };
    let (media, own): (Vec<_>, Vec<_>) = of(form).into_iter().partition(|value| is_media(value));
    own.into_iter().chain(media.into_iter().flat_map(of)).filter(|value| value.is_number())
}

#[test]
fn merging_adds_every_field() {
    let mut sum = Figures::default();
    for seed in 1..=3 {
        sum.merge(&some(seed));
    }
    assert_eq!((sum.phones, sum.calls, sum.registered_now, sum.media.sent), (6, 12, 3, 60));
    assert_eq!((sum.setup_delay.count(), sum.media.mos.count(), sum.ended()), (3, 3, 6));
    assert_eq!((sum.errors_in_all(), sum.responses[&200], sum.outcome(Outcome::Completed)), (3, 6, 3));
    let mut form = serde_json::to_value(Figures::default()).unwrap();
    let mut filled = 0;
    for number in numbers(&mut form) {
        filled += 1;
        *number = filled.into();
    }
    let whole: Figures = serde_json::from_value(form).unwrap();
    let mut twice = serde_json::to_value(&whole).unwrap();
    let mut merged = whole.clone();
    merged.merge(&whole);
    for (index, number) in (1..).zip(numbers(&mut twice)) {
        *number = (2 * index).into();
    }
    // The busiest of all is as busy as before.
    twice["busiest_permille"] = whole.busiest_permille.into();
    assert_eq!(serde_json::to_value(&merged).unwrap(), twice);
    assert!(filled > 30, "{filled} counters");
}

#[test]
fn it_travels() {
    let figures = some(3);
    let bytes = postcard::to_stdvec(&figures).unwrap();
    assert_eq!(postcard::from_bytes::<Figures>(&bytes).unwrap(), figures);
    let text = serde_json::to_string(&figures).unwrap();
    assert_eq!(serde_json::from_str::<Figures>(&text).unwrap(), figures);
}

#[test]
fn causes_are_bounded_in_number_and_length() {
    let mut figures = Figures::default();
    for number in 0..1_000 {
        figures.fail(&format!("cause {number}"));
    }
    figures.fail(&"é".repeat(1_000));
    assert!(figures.errors.len() <= CAUSES_MAX + 1);
    assert_eq!(figures.errors_in_all(), 1_001);
    assert_eq!(figures.errors["other"], 1_001 - CAUSES_MAX as u64);
    let mut fresh = Figures::default();
    fresh.fail(&"é".repeat(1_000));
    assert!(fresh.errors.keys().all(|cause| cause.len() <= CAUSE_BYTES_MAX));
}
