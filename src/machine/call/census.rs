//! How many dialogs and transactions a call has: what the shard's gauges add up.

use serde::Deserialize;
use serde::Serialize;

use crate::machine::call::Call;
use crate::machine::call::bond::Negotiation;
use crate::machine::call::party::Party;
use crate::machine::call::party::Presence;
use crate::machine::call::party::Purpose;
use crate::machine::call::party::Withdrawal;
use crate::machine::transaction::invite_client;
use crate::machine::transaction::invite_client::InviteClient;
use crate::machine::transaction::invite_server;
use crate::machine::transaction::invite_server::InviteServer;
use crate::machine::transaction::non_invite_client;
use crate::machine::transaction::non_invite_client::NonInviteClient;

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Census {
    pub dialogs: u32,
    /// Transactions by their state; one that is terminated is none.
    pub calling: u32,
    pub trying: u32,
    pub proceeding: u32,
    pub accepted: u32,
    pub completed: u32,
    pub confirmed: u32,
}

impl Census {
    /// One call's part of the sum is another than before.
    pub fn replace(&mut self, mut before: Self, mut now: Self) {
        for ((sum, before), now) in self.fields().into_iter().zip(before.fields()).zip(now.fields()) {
            *sum = *sum + *now - *before;
        }
    }

    fn fields(&mut self) -> [&mut u32; 7] {
        let Self { dialogs, calling, trying, proceeding, accepted, completed, confirmed } = self;
        [dialogs, calling, trying, proceeding, accepted, completed, confirmed]
    }

    fn invite_server(&mut self, transaction: &InviteServer) {
        match transaction.state() {
            invite_server::State::Proceeding { .. } => self.proceeding += 1,
            invite_server::State::Completed { .. } => self.completed += 1,
            invite_server::State::Confirmed { .. } => self.confirmed += 1,
            invite_server::State::Accepted { .. } => self.accepted += 1,
            invite_server::State::Terminated => {}
        }
    }

    fn invite_client(&mut self, transaction: &InviteClient) {
        match transaction.state() {
            invite_client::State::Calling { .. } => self.calling += 1,
            // An abandoned one still waits for its final response.
            invite_client::State::Proceeding | invite_client::State::Abandoned { .. } => self.proceeding += 1,
            invite_client::State::Completed { .. } => self.completed += 1,
            invite_client::State::Accepted { .. } => self.accepted += 1,
            invite_client::State::Terminated => {}
        }
    }

    fn non_invite_client(&mut self, transaction: &NonInviteClient) {
        match transaction.state() {
            non_invite_client::State::Trying { .. } => self.trying += 1,
            non_invite_client::State::Proceeding { .. } => self.proceeding += 1,
            non_invite_client::State::Completed { .. } => self.completed += 1,
            non_invite_client::State::Terminated => {}
        }
    }

    fn party(&mut self, party: &Party) {
        self.dialogs += u32::from(party.presence != Presence::Gone);
        if let Some(server) = &party.server {
            self.invite_server(&server.transaction);
        }
        if let Some(client) = &party.client {
            self.invite_client(&client.transaction);
            if let Withdrawal::Sent { cancel } = &client.withdrawal {
                self.non_invite_client(cancel);
            }
        }
        for request in &party.requests {
            self.non_invite_client(&request.transaction);
            // The other side's, which waits for the answer of this.
            let is_relayed = matches!(request.purpose, Purpose::Relay(_)) && request.transaction.is_open();
            self.trying += u32::from(is_relayed);
        }
    }
}

impl Call {
    pub fn census(&self) -> Census {
        let mut census = Census::default();
        census.invite_server(&self.caller.transaction);
        for branch in &self.branches {
            let (invite, cancel) = branch.transactions();
            census.invite_client(invite);
            cancel.into_iter().for_each(|cancel| census.non_invite_client(cancel));
        }
        for bond in &self.bonds {
            census.party(&bond.callee);
            census.party(&bond.caller);
            // What the caller was not told of is no dialog of it.
            census.dialogs -= u32::from(bond.caller.presence == Presence::Early && bond.told == 0);
            census.trying += u32::from(matches!(bond.negotiation, Negotiation::Request { .. }));
        }
        self.strays.iter().for_each(|stray| census.party(stray));
        census
    }
}
