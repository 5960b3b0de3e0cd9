//! baresip as a phone: it plays a tone from a file and writes what it hears into another.

use std::fs;
use std::path::PathBuf;
use std::process::Child;
use std::process::Stdio;

use crate::namespace::Host;
use crate::server::Server;
use crate::tone;

pub struct Baresip {
    folder: tempfile::TempDir,
    child: Child,
}

impl Baresip {
    /// Registers as `user`, answers every call, and dials `dial` if it is given. Ends by itself after `seconds`.
    pub fn start(
        host: &Host,
        server: &Server,
        user: &str,
        transport: &str,
        hertz: f64,
        dial: Option<&str>,
        seconds: u32,
    ) -> Self {
        let folder = tempfile::Builder::new().prefix("tipring-baresip-").tempdir().unwrap();
        let path = |name: &str| folder.path().join(name).display().to_string();
        tone::write(&folder.path().join("tone.wav"), hertz, 60);
        let config = format!(
            "poll_method epoll\nsip_listen {}:5060\naudio_player aubridge,none\n\
             audio_source aufile,{}\naudio_alert aubridge,none\nausrc_srate 8000\nauplay_srate 8000\nausrc_channels 1\n\
             auplay_channels 1\nmodule_path {}\nmodule g711.so\nmodule aufile.so\nmodule aubridge.so\nmodule sndfile.so\n\
             module_tmp account.so\nmodule_app menu.so\nsnd_path {}\n",
            host.ip,
            path("tone.wav"),
            module_folder(),
            folder.path().display()
        );
        let account = format!(
            "<sip:{user}@acme.test;transport={transport}>;auth_pass=secret-{user};\
             outbound=\"sip:{};transport={transport}\";regint=60;answermode=auto\n",
            server.sip()
        );
        fs::write(path("config"), config).unwrap();
        fs::write(path("accounts"), account).unwrap();
        fs::write(path("contacts"), "").unwrap();
        let log = fs::File::create(path("log")).unwrap();
        let mut command = host.command("baresip");
        command.args(["-4", "-s", "-t", &seconds.to_string(), "-f"]).arg(folder.path());
        if let Some(dial) = dial {
            command.args(["-e", &format!("/dial {dial}")]);
        }
        let child = command
            .stdin(Stdio::null())
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .spawn()
            .expect("baresip is installed (Debian: baresip-core)");
        Self { folder, child }
    }

    /// Waits for its end and says where the sound is that it heard.
    pub fn heard(mut self) -> Heard {
        let _ = self.child.wait();
        let log = String::from_utf8_lossy(&fs::read(self.folder.path().join("log")).unwrap_or_default()).into_owned();
        let files = fs::read_dir(self.folder.path()).unwrap().map(|entry| entry.unwrap().path());
        let recording = files.into_iter().find(|path| path.to_string_lossy().ends_with("-dec.wav"));
        Heard { recording, log, folder: std::mem::replace(&mut self.folder, tempfile::tempdir().unwrap()) }
    }
}

impl Drop for Baresip {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

pub struct Heard {
    recording: Option<PathBuf>,
    pub log: String,
    #[expect(dead_code, reason = "the recording lives in it")]
    folder: tempfile::TempDir,
}

impl Heard {
    /// Seconds of this tone in what was heard.
    pub fn seconds_of(&self, hertz: f64) -> f64 {
        self.recording.as_ref().map_or(0.0, |path| tone::seconds_of(path, hertz))
    }
}

fn module_folder() -> &'static str {
    let folders = ["/usr/lib/baresip/modules", "/usr/lib/x86_64-linux-gnu/baresip/modules"];
    folders.into_iter().find(|folder| fs::metadata(folder).is_ok()).unwrap_or(folders[0])
}
