//! The command as a child that does not outlive its test.

use std::process::{Child, Command};

/// Killed when it is dropped.
pub(crate) struct Process(pub(crate) Child);

impl Process {
    /// Starts the command.
    pub(crate) fn start(command: &mut Command) -> Self {
        Self(command.spawn().expect("duck-load starts"))
    }

    /// Sends it a signal, by name.
    pub(crate) fn signal(&self, name: &str) {
        let id = self.0.id().to_string();
        let sent = Command::new("kill").args(["-s", name, &id]).status();
        assert!(sent.expect("kill runs").success(), "kill -s {name} {id}");
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.0.kill().ok();
        self.0.wait().ok();
    }
}
