//! HUP and `tipring reload`: the configuration is read again by another process, and what it says is passed on.
//!
//! A bad file changes nothing; keys that need a restart keep their values and are named.

use crate::base::time::Instant;
use crate::process::exit::Failure;
use crate::process::keeper::control::State;
use crate::process::keeper::planning::Planning;
use crate::process::keeper::run::Keeper;
use crate::process::keeper::run::Settings;
use crate::process::keeper::run::Stop;
use crate::process::plan::Plan;
use crate::process::tune::engine::Hardware;
use crate::wire::control::ToChild;

impl Keeper {
    pub(super) fn reload(&mut self, now: Instant) {
        self.log.reopen();
        for process in [&mut self.engine, &mut self.side] {
            process.tell(&ToChild::ReopenLogs);
        }
        if self.planning.is_some() {
            return;
        }
        if self.is_serving() {
            self.manager.reloading(now);
        }
        match Planning::start(self.config.as_deref()) {
            Ok(planning) => self.planning = Some(planning),
            Err(failure) => self.on_bad_plan(&failure),
        }
    }

    pub(super) fn on_planning(&mut self, now: Instant) {
        let Some(outcome) = self.planning.as_mut().and_then(|planning| planning.advance(now)) else { return };
        self.planning = None;
        match outcome {
            Ok(plan) => self.on_plan(*plan),
            Err(failure) => self.on_bad_plan(&failure),
        }
    }

    fn is_serving(&self) -> bool {
        self.ready && self.stop == Stop::No
    }

    /// Before whoever asked for the reload hears of it: the service manager is to know first.
    fn end_reload(&self) {
        if self.is_serving() {
            self.manager.send("READY=1");
        }
    }

    fn on_bad_plan(&mut self, failure: &Failure) {
        self.reload_success = false;
        self.end_reload();
        for line in failure.line.lines() {
            self.log.error("reload_failed", line);
        }
        self.control.fail_all(State::Reloading, failure);
    }

    /// A line for each thing that the machine lacks. While calls are up that is no reason to stop, whatever its severity.
    pub(super) fn report_hardware(&mut self, hardware: Option<&Hardware>) {
        for line in hardware.into_iter().flat_map(|hardware| hardware.faults(false).chain(hardware.faults(true))) {
            self.log.warn("hardware", line);
        }
    }

    fn on_plan(&mut self, plan: Plan) {
        let pinned = &self.plan.pinned;
        let differs = |(key, digest): &&(String, u64)| !pinned.iter().any(|(k, d)| k == key && d == digest);
        let gone = |(key, _): &&(String, u64)| !plan.pinned.iter().any(|(other, _)| other == key);
        let mut changed: Vec<&str> = plan.pinned.iter().filter(differs).map(|(key, _)| key.as_str()).collect();
        changed.extend(pinned.iter().filter(gone).map(|(key, _)| key.as_str()));
        let note = match changed.is_empty() {
            true => String::new(),
            false => format!("these keys need a restart to change: {}", changed.join(", ")),
        };
        self.reload_success = true;
        self.end_reload();
        self.plan.drain = plan.drain;
        self.plan.log = plan.log.clone();
        self.log.set(plan.log);
        self.log.info("reloaded", "the configuration was read again");
        if !note.is_empty() {
            self.log.warn("restart_needed", &note);
        }
        self.report_hardware(plan.hardware.as_ref());
        self.engine.tell(&ToChild::Settings(plan.engine.clone()));
        self.side.tell(&ToChild::Settings(plan.side.clone()));
        self.latest = Some(Settings { engine: plan.engine, side: plan.side });
        for client in self.control.clients.iter_mut().filter(|client| client.state == State::Reloading) {
            client.answer(note.as_bytes(), true);
        }
    }
}
