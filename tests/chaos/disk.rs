//! A disk that can be full: a tmpfs, where this account may mount one.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
    thread::sleep,
    time::Duration,
};

/// More than a run ever writes.
const SIZE: &str = "size=12g";

pub struct Disk {
    folder: PathBuf,
}

impl Disk {
    /// A new one at a folder, which is made; none if that is not allowed here.
    pub fn mount(folder: &Path) -> Option<Self> {
        fs::create_dir_all(folder).expect("a folder for the disk");
        let mounted = mount(&["-t", "tmpfs", "-o", SIZE, "tmpfs"], folder);
        mounted.then(|| Self { folder: folder.to_owned() })
    }

    /// From now on it has no more room.
    pub fn fill(&self) {
        // Whoever writes between the two makes it fail.
        while !mount(&["-o", &format!("remount,size={}k", self.used_kib() + 64)], &self.folder) {
            sleep(Duration::from_millis(10));
        }
    }

    pub fn widen(&self) {
        assert!(mount(&["-o", &format!("remount,{SIZE}")], &self.folder), "the disk gets room again");
    }

    fn used_kib(&self) -> u64 {
        let output = Command::new("df").args(["--output=used", "-k"]).arg(&self.folder).output();
        let text = String::from_utf8(output.expect("df runs").stdout).expect("text");
        text.lines().last().and_then(|line| line.trim().parse().ok()).expect("a number")
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        let unmounted = Command::new("umount").arg("--lazy").arg(&self.folder).status();
        if !unmounted.is_ok_and(|status| status.success()) {
            eprintln!("{} is still mounted", self.folder.display());
        }
    }
}

fn mount(arguments: &[&str], folder: &Path) -> bool {
    let output = Command::new("mount").args(arguments).arg(folder).output();
    output.is_ok_and(|output| output.status.success())
}
