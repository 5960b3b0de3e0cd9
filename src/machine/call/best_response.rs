//! Which failure the caller hears when every branch failed (RFC 3261 §16.7 step 6), and what a status means in Q.850.

/// A branch's final status as it counts for the caller.
///
/// A redirection is not followed: whoever controls a phone could send calls anywhere on the tenant's account. A challenge to us cannot be
/// met, and would make the caller send its password to a callee. RFC 3261 §16.7: "A proxy which receives a 503 (Service Unavailable)
/// response SHOULD NOT forward it upstream unless it can determine that any subsequent requests it might proxy will also generate a 503."
pub fn for_caller(status: u16) -> u16 {
    match status {
        300..=399 | 401 | 407 | 481 | 491 => 480,
        // The other leg's own affair: what it wanted of us, or what we said wrongly.
        421 | 422 | 423 | 482 | 483 | 494 | 503 => 500,
        100..700 => status,
        _ => 500,
    }
}

/// The best of several failures, already [`for_caller`].
pub fn best(failures: impl Iterator<Item = u16>) -> Option<u16> {
    failures.min_by_key(|&status| (class(status), rank(status)))
}

/// RFC 3261 §16.7: 6xx first, else the lowest class.
fn class(status: u16) -> u16 {
    match status / 100 {
        6 => 0,
        class => class,
    }
}

/// Within 4xx: what helps the caller to ask better, then what a person did, then what merely happened.
fn rank(status: u16) -> u16 {
    match status {
        415 | 420 | 484 | 488 => 0,
        486 => 1,
        480 => 3,
        487 => 4,
        408 => 5,
        _ => 2,
    }
}

/// RFC 3398 §8.2.6.1 and its inverse; 0 where there is none.
pub fn q850(status: u16) -> u8 {
    match status {
        200..300 => 16,
        404 | 485 | 604 => 1,
        486 | 600 => 17,
        480 => 18,
        403 | 603 => 21,
        410 => 22,
        484 => 28,
        500 | 503 => 41,
        487 => 16,
        488 | 606 => 88,
        408 | 504 => 102,
        415 | 420 | 421 => 79,
        _ => 127,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_best_failure_wins() {
        let check = |statuses: &[u16], expected| {
            let forwards = best(statuses.iter().copied().map(for_caller));
            let backwards = best(statuses.iter().rev().copied().map(for_caller));
            assert_eq!((forwards, backwards), (Some(expected), Some(expected)), "{statuses:?}");
        };
        check(&[486], 486);
        check(&[486, 603], 603);
        check(&[486, 408], 486);
        check(&[480, 408], 480);
        check(&[500, 408], 408);
        check(&[503], 500);
        check(&[302, 503], 480);
        check(&[302], 480);
        check(&[401], 480);
        check(&[486, 484], 484);
        check(&[404, 480], 404);
        assert_eq!(best(std::iter::empty()), None);
    }
}
