//! Models by name, from a Hub on this machine that does what the real one does, and what it should not.

#[path = "common/hub.rs"]
mod stub;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::common::{Run, dsde};
use stub::{COMMIT, Fault, File, Hub, TOKEN};

/// A Hub, and the cache of one user of it.
struct Setting {
    hub: Hub,
    home: tempfile::TempDir,
}

impl Setting {
    fn new(files: &[File]) -> Self {
        Self { hub: Hub::start(files), home: tempfile::tempdir().expect("a scratch folder") }
    }

    fn dsde(&self, args: &[&str]) -> Run {
        self.dsde_where(args, &[])
    }

    /// Runs `dsde` with these variables, too.
    fn dsde_where(&self, args: &[&str], variables: &[(&str, &str)]) -> Run {
        let mut command = Command::new(env!("CARGO_BIN_EXE_dsde"));
        for name in ["RUST_LOG", "HF_HUB_CACHE", "HF_HUB_OFFLINE", "HF_TOKEN", "HF_TOKEN_PATH"] {
            command.env_remove(name);
        }
        command.args(args).env("HF_HOME", self.home.path()).env("HF_ENDPOINT", &self.hub.endpoint);
        command.envs(variables.iter().copied()).stdin(Stdio::null());
        Run::of(command.output().expect("the program runs"))
    }

    #[track_caller]
    fn check_pulled(&self, name: &str, file: &str) {
        let run = self.dsde(&["pull", name]);
        assert_eq!(run.code, Some(0), "{name}: {}", run.stderr);
        let expected = self.snapshot().join(file);
        assert_eq!(Path::new(run.stdout.trim_end()), expected, "{name}");
        assert!(run.stderr.contains(&format!("dsde chat --model {name}")), "{}", run.stderr);
    }

    #[track_caller]
    fn check_refused(&self, args: &[&str], code: i32, parts: &[&str]) {
        let run = self.dsde(args);
        assert_eq!((run.code, &*run.stdout), (Some(code), ""), "{args:?}: {}", run.stderr);
        for part in parts {
            assert!(run.stderr.contains(part), "{args:?} lacks {part:?}: {}", run.stderr);
        }
    }

    fn repository(&self) -> PathBuf {
        self.home.path().join("hub/models--org--model")
    }

    fn snapshot(&self) -> PathBuf {
        self.repository().join("snapshots").join(COMMIT)
    }

    fn blob(&self, name: &str) -> PathBuf {
        self.repository().join("blobs").join(name)
    }
}

/// The embedded draft as a repository, with files that nobody here needs.
fn draft() -> Vec<File> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../models/draft");
    let read = |name: &str| fs::read(folder.join(name)).expect("a file of the draft");
    let small = ["config.json", "generation_config.json", "tokenizer.json", "tokenizer_config.json"];
    let mut files = vec![
        File::small("README.md", b"A model."),
        File::large("model.safetensors", &read("model.safetensors")),
        File::large("onnx/model.safetensors", b"another program's"),
    ];
    files.extend(small.map(|name| File::small(name, &read(name))));
    files
}

/// One large file that is a GGUF file by name.
fn gguf() -> File {
    File::large("m-Q4_K_M.gguf", &[7; 50_000])
}

#[test]
fn a_model_is_fetched_once_and_runs() {
    let setting = Setting::new(&draft());
    let generate =
        ["generate", "--draft", "org/model", "--prompt", "Hello.", "--max-tokens", "4", "--threads", "1"];
    let first = setting.dsde(&generate);
    assert_eq!(first.code, Some(0), "{}", first.stderr);
    let n_asked = setting.hub.n_asked();
    assert!(n_asked > 0);
    let again = setting.dsde_where(&generate, &[("HF_HUB_OFFLINE", "1")]);
    assert_eq!((again.code, &again.stdout), (Some(0), &first.stdout), "{}", again.stderr);
    let inspected = setting.dsde(&["inspect", "--model", "org/model", "--json"]).json_lines();
    assert_eq!(inspected[0]["model"]["source"], setting.snapshot().display().to_string());
    assert_eq!(setting.hub.n_asked(), n_asked);
}

#[test]
fn a_repository_lies_as_other_clients_have_it() {
    let setting = Setting::new(&draft());
    setting.check_pulled("org/model", "");
    assert_eq!(fs::read_to_string(setting.repository().join("refs/main")).unwrap(), COMMIT);
    for file in draft() {
        let path = setting.snapshot().join(&file.name);
        let is_needed = !["README.md", "onnx/model.safetensors"].contains(&&*file.name);
        assert_eq!(path.exists(), is_needed, "{}", file.name);
        if is_needed {
            assert_eq!(fs::read(&path).unwrap(), file.content);
            #[cfg(unix)]
            assert_eq!(fs::read_link(&path).unwrap(), Path::new("../../blobs").join(file.etag()));
        }
    }
    let blobs = fs::read_dir(setting.repository().join("blobs")).unwrap();
    assert_eq!(blobs.count(), 5);
    // A second pull looks for news and finds none.
    let n_asked = setting.hub.asked_other.lock().unwrap().len();
    setting.check_pulled("org/model", "");
    assert_eq!(setting.hub.asked_other.lock().unwrap().len(), n_asked);
}

#[test]
fn what_was_cut_off_goes_on() {
    let (file, setting) = (gguf(), Setting::new(&[gguf()]));
    let incomplete = setting.blob(&format!("{}.incomplete", file.etag()));
    setting.hub.set_fault(Fault::CutAndDown(20_000));
    setting.check_refused(
        &["pull", "org/model"],
        1,
        &["503 Service Unavailable", "m-Q4_K_M.gguf", "goes on"],
    );
    assert_eq!(fs::metadata(&incomplete).unwrap().len(), 20_000);
    assert!(!setting.repository().join("refs").exists());
    // Once more within one run, from where the last one ended.
    setting.hub.set_fault(Fault::CutOnce(20_000));
    setting.check_pulled("org/model", "m-Q4_K_M.gguf");
    assert_eq!(fs::read(setting.snapshot().join("m-Q4_K_M.gguf")).unwrap(), file.content);
    assert!(!incomplete.exists());
    let asked = setting.hub.asked_other.lock().unwrap();
    let has = |range: &str| asked.iter().filter(|head| head.contains(range)).count();
    assert_eq!((has("range: bytes=20000-\r\n"), has("range: bytes=40000-\r\n")), (2, 1), "{asked:?}");
}

#[test]
fn a_host_without_ranges_sends_everything_again() {
    let (file, setting) = (gguf(), Setting::new(&[gguf()]));
    let incomplete = setting.blob(&format!("{}.incomplete", file.etag()));
    fs::create_dir_all(incomplete.parent().unwrap()).unwrap();
    fs::write(&incomplete, [7; 100]).unwrap();
    setting.hub.set_fault(Fault::IgnoresRanges);
    setting.check_pulled("org/model", "m-Q4_K_M.gguf");
    assert_eq!(fs::read(setting.blob(&file.etag())).unwrap(), file.content);
}

#[test]
fn what_arrives_broken_is_removed() {
    let (file, setting) = (gguf(), Setting::new(&[gguf()]));
    let broken = ["arrived broken and was removed", "expected SHA-256", &file.etag()];
    setting.hub.set_fault(Fault::Wrong);
    setting.check_refused(&["pull", "org/model"], 1, &broken);
    assert_eq!(fs::read_dir(setting.repository().join("blobs")).unwrap().count(), 0);
    assert!(!setting.snapshot().exists());
    // A beginning that was broken before is found out, too.
    setting.hub.set_fault(Fault::None);
    fs::write(setting.blob(&format!("{}.incomplete", file.etag())), [8; 100]).unwrap();
    setting.check_refused(&["pull", "org/model"], 1, &broken);
    setting.check_pulled("org/model", "m-Q4_K_M.gguf");
}

#[test]
fn one_program_at_a_time_fetches_a_file() {
    let (file, setting) = (gguf(), Setting::new(&[gguf()]));
    let incomplete = setting.blob(&format!("{}.incomplete", file.etag()));
    fs::create_dir_all(incomplete.parent().unwrap()).unwrap();
    let locked = fs::File::create(&incomplete).unwrap();
    locked.lock().unwrap();
    setting.check_refused(&["pull", "org/model"], 1, &["another program is fetching m-Q4_K_M.gguf"]);
    drop(locked);
    setting.check_pulled("org/model", "m-Q4_K_M.gguf");
}

#[test]
fn the_token_is_for_the_hub_alone() {
    let setting = Setting::new(&draft());
    setting.check_refused(
        &["pull", "org/private"],
        2,
        &[
            "does not show org/private (401 Unauthorized: Access to model org/private is restricted.)",
            "HF_TOKEN",
        ],
    );
    let log = ("RUST_LOG", "trace");
    let typed = setting.dsde_where(&["pull", "org/private"], &[("HF_TOKEN", TOKEN), log]);
    fs::write(setting.home.path().join("token"), format!("{TOKEN}\n")).unwrap();
    fs::remove_dir_all(setting.home.path().join("hub")).unwrap();
    let stored = setting.dsde_where(&["pull", "org/private"], &[log]);
    for run in [typed, stored] {
        assert_eq!(run.code, Some(0), "{}", run.stderr);
        assert!(!run.stderr.contains(TOKEN) && !run.stdout.contains(TOKEN), "{}", run.stderr);
    }
    let (asked, other) = (setting.hub.asked.lock().unwrap(), setting.hub.asked_other.lock().unwrap());
    assert!(asked[1..].iter().all(|head| head.contains(TOKEN)), "{asked:?}");
    assert_eq!(other.len(), 2);
    assert!(other.iter().all(|head| !head.to_lowercase().contains("authorization")), "{other:?}");
}

#[test]
fn without_a_network_the_cache_is_all_there_is() {
    let setting = Setting::new(&[gguf()]);
    let offline = [("HF_HUB_OFFLINE", "1")];
    let run = setting.dsde_where(&["chat", "--model", "org/model:Q4_K_M"], &offline);
    assert_eq!(run.code, Some(2));
    for part in
        ["--model org/model:Q4_K_M", "not in the cache", "HF_HUB_OFFLINE", "dsde pull org/model:Q4_K_M"]
    {
        assert!(run.stderr.contains(part), "{part}: {}", run.stderr);
    }
    assert_eq!(setting.hub.n_asked(), 0);
    setting.check_pulled("org/model:Q4_K_M", "m-Q4_K_M.gguf");
    let n_asked = setting.hub.n_asked();
    for name in ["org/model", "org/model:m-Q4_K_M.gguf", &format!("org/model@{COMMIT}")] {
        let run = setting.dsde_where(&["pull", name], &offline);
        assert_eq!(run.code, Some(0), "{name}: {}", run.stderr);
    }
    let other = setting.dsde_where(&["pull", "org/model:Q8_0"], &offline);
    assert_eq!(other.code, Some(2));
    assert!(other.stderr.contains("'Q8_0'; there are: m-Q4_K_M.gguf"), "{}", other.stderr);
    assert_eq!(setting.hub.n_asked(), n_asked);
    // Nobody listens at port 1.
    let nobody = [("HF_ENDPOINT", "http://127.0.0.1:1")];
    let pulled = setting.dsde_where(&["pull", "org/model"], &nobody);
    assert_eq!(pulled.code, Some(0), "{}", pulled.stderr);
    assert!(pulled.stderr.contains("perhaps not the newest"), "{}", pulled.stderr);
    let missing = setting.dsde_where(&["pull", "org/other"], &nobody);
    assert_eq!(missing.code, Some(1));
    assert!(missing.stderr.contains("cannot reach http://127.0.0.1:1: "), "{}", missing.stderr);
    assert!(missing.stderr.ends_with("that ran `dsde pull`\n"), "{}", missing.stderr);
}

#[test]
fn a_folder_with_a_part_missing_is_completed() {
    let setting = Setting::new(&draft());
    setting.check_pulled("org/model", "");
    for name in ["model.safetensors", "tokenizer.json"] {
        let path = setting.snapshot().join(name);
        fs::remove_file(fs::canonicalize(&path).unwrap()).unwrap();
        let run = setting.dsde(&["inspect", "--model", "org/model"]);
        assert_eq!(run.code, Some(0), "{}", run.stderr);
        assert!(path.is_file(), "{name}");
    }
}

#[test]
fn names_that_lead_out_of_the_folder_are_refused() {
    for name in ["../../../evil.gguf", "/evil.gguf", "a/../../evil.gguf", "a\\..\\evil.gguf", "./evil.gguf"] {
        let setting = Setting::new(&[gguf(), File::large(name, b"evil")]);
        setting.check_refused(&["pull", "org/model:Q4_K_M"], 1, &["leads out of its folder"]);
        assert!(!setting.home.path().join("hub").exists(), "{name}");
    }
}

#[test]
fn labels_name_files() {
    let part = |n: u32| File::large(&format!("big/m-Q8_0-0000{n}-of-00002.gguf"), &[n as u8; 1000]);
    let setting = Setting::new(&[
        gguf(),
        File::large("m-Q4_K_S.gguf", b"s"),
        part(2),
        part(1),
        File::small("config.json", b"{}"),
    ]);
    setting.check_pulled("org/model", "m-Q4_K_M.gguf");
    setting.check_pulled("org/model:q8_0", "big/m-Q8_0-00001-of-00002.gguf");
    assert!(setting.snapshot().join("big/m-Q8_0-00002-of-00002.gguf").is_file());
    setting.check_refused(
        &["pull", "org/model:Q4"],
        2,
        &["several GGUF files", "m-Q4_K_M.gguf, m-Q4_K_S.gguf"],
    );
    setting.check_refused(
        &["pull", "org/model:Q2_K"],
        2,
        &["'Q2_K'; there are: big/m-Q8_0-00001-of-00002.gguf, m-"],
    );
    let setting = Setting::new(&[File::large("a-Q2_K.gguf", b"a"), File::large("b-Q8_0.gguf", b"b")]);
    setting.check_refused(&["pull", "org/model"], 2, &["ORG/NAME:FILE: a-Q2_K.gguf, b-Q8_0.gguf"]);
}

#[test]
fn what_is_not_there_is_named() {
    let setting = Setting::new(&[File::small("README.md", b"")]);
    setting.check_refused(
        &["generate", "--prompt", "Hello.", "--model", "org/nothing"],
        2,
        &[
            "--model org/nothing: no such path here",
            "has no org/nothing (404 Not Found: Repository not found)",
        ],
    );
    setting.check_refused(&["pull", "org/model@v9"], 2, &["has no org/model at revision v9"]);
    setting.check_refused(&["pull", "org/model"], 2, &["neither safetensors nor GGUF files"]);
    for name in ["org", "./org/model", "a/b/c", "org/model:../x"] {
        let run = dsde(&["pull", name]);
        assert_eq!(run.code, Some(2), "{name}");
        assert!(run.stderr.contains("expected ORG/NAME"), "{}", run.stderr);
    }
}
