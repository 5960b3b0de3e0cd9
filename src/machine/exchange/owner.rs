//! Which shard a message belongs to; whoever reads it first asks here, and parses no more than this needs.

use crate::base::id::ShardId;
use crate::machine::Shared;
use crate::machine::exchange::who;
use crate::machine::locator::Locator;
use crate::machine::outbox::Aor;
use crate::wire::sip::Message;

/// The shard whose phone this is: keyed, so that nobody can aim at one shard.
pub fn shard_of(aor: &Aor, shared: Shared<'_>) -> ShardId {
    let hash = shared.settings.secrets.hash.hash(&[aor.tenant.as_bytes(), aor.user.as_bytes()]);
    pick(hash, shared)
}

/// The place of a response: our Via branch says it.
pub(super) fn of_response(message: &Message<'_>) -> Option<Locator> {
    Locator::parse(message.top_via().ok()?.branch()?)
}

/// The place of a request within a dialog of ours: our tag in To says it.
pub(super) fn of_dialog(message: &Message<'_>) -> Option<Locator> {
    Locator::parse(message.to().ok()?.tag()?)
}

/// The shard of a request outside any dialog of ours: REGISTER by To, all else by From where that is one of our domains,
/// else (an anonymous caller, a stranger) by Call-ID; so retransmissions and CANCEL find their INVITE whatever their source address has become.
pub(super) fn of_request(message: &Message<'_>, shared: Shared<'_>) -> ShardId {
    if shared.settings.shards <= 1 {
        return ShardId(0);
    }
    let aor = message.sender_uri().ok().and_then(|uri| who::aor_of(uri, shared));
    match aor {
        Some(aor) => shard_of(&aor, shared),
        None => pick(shared.settings.secrets.hash.hash(&[message.call_id()]), shared),
    }
}

fn pick(hash: u64, shared: Shared<'_>) -> ShardId {
    let shards = u64::from(shared.settings.shards.max(1));
    // The high bits: the low ones may choose a row of a table.
    ShardId(((u128::from(hash) * u128::from(shards)) >> 64) as u8)
}
