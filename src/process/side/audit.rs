//! Who changed what, and who was refused: append-only, kept for `[retain] audit`.

use std::sync::Mutex;

use sqlx::Sqlite;
use sqlx::Transaction;

use crate::base::limit::AUDITED_REFUSALS_PER_MINUTE_MAX;
use crate::base::time::UnixTime;
use crate::process::side::clock;
use crate::process::side::store::Store;
use crate::process::side::store::StoreError;

/// One line of the audit.
#[derive(Clone, Debug, Default)]
pub(crate) struct Entry {
    /// A token's name, or what else acted; empty where nobody was recognised.
    pub(crate) actor: String,
    pub(crate) action: &'static str,
    pub(crate) subject: String,
    pub(crate) tenant: Option<String>,
    pub(crate) outcome: &'static str,
    /// Address that it came from.
    pub(crate) source: String,
}

impl Entry {
    pub(crate) fn by(actor: &str) -> Self {
        Self { actor: actor.to_owned(), ..Self::default() }
    }
}

pub(crate) async fn note(tx: &mut Transaction<'static, Sqlite>, entry: &Entry) -> Result<(), StoreError> {
    sqlx::query("INSERT INTO audit (at, actor, action, subject, tenant, outcome, source) VALUES (?, ?, ?, ?, ?, ?, ?)")
        .bind(clock::to_sql(clock::now()))
        .bind(&entry.actor)
        .bind(entry.action)
        .bind(&entry.subject)
        .bind(&entry.tenant)
        .bind(entry.outcome)
        .bind(&entry.source)
        .execute(&mut **tx)
        .await?;
    Ok(())
}

pub(crate) async fn note_alone(store: &Store, entry: &Entry) -> Result<(), StoreError> {
    let mut tx = store.write().await?;
    note(&mut tx, entry).await?;
    tx.commit().await?;
    Ok(())
}

/// Lets so many refusals a minute into the audit: a guesser may not fill the disk.
#[derive(Debug, Default)]
pub(crate) struct RefusalBudget(Mutex<(u64, u32)>);

impl RefusalBudget {
    pub(crate) fn take(&self, now: UnixTime) -> bool {
        let Ok(mut state) = self.0.lock() else { return false };
        let minute = now.secs() / 60;
        if state.0 != minute {
            *state = (minute, 0);
        }
        state.1 += 1;
        state.1 <= AUDITED_REFUSALS_PER_MINUTE_MAX
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refusals_are_audited_up_to_a_bound_each_minute() {
        let budget = RefusalBudget::default();
        let taken = |secs| (0..1_000).filter(|_| budget.take(UnixTime::from_secs(secs))).count();
        assert_eq!(taken(60), AUDITED_REFUSALS_PER_MINUTE_MAX as usize);
        assert_eq!(taken(119), 0);
        assert_eq!(taken(120), AUDITED_REFUSALS_PER_MINUTE_MAX as usize);
    }
}
