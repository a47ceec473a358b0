//! Debian kernels, fetched once and kept in a cache directory.
//!
//! A package is downloaded through apt, which checks its signature; its files are unpacked, not installed.

use crate::{Error, Result, command, step};
use std::path::{Path, PathBuf};
use std::process::Command;

/// Which kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Series {
    /// Debian 12's own: the oldest that is supported.
    Oldest,
    /// Debian 12's for virtual machines: the same release with fewer drivers, and quicker to fetch.
    Cloud,
    /// The newest that Debian 12 has in its backports.
    Backports,
}

/// Where backports are, for machines whose sources do not name them. Signed by the same keys as the release.
const BACKPORTS: &str = "deb [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] http://deb.debian.org/debian bookworm-backports main\n";

impl Series {
    const fn package(self) -> &'static str {
        match self {
            Series::Oldest | Series::Backports => "linux-image-amd64",
            Series::Cloud => "linux-image-cloud-amd64",
        }
    }
    const fn dir(self) -> &'static str {
        match self {
            Series::Oldest => "oldest",
            Series::Cloud => "cloud",
            Series::Backports => "backports",
        }
    }
}

/// A kernel with its modules, unpacked.
#[derive(Clone, Debug)]
pub struct Kernel {
    root: PathBuf,
    release: String,
}

impl Kernel {
    /// The kernel of a series: from the cache, else fetched.
    pub fn get(series: Series) -> Result<Kernel> {
        let cache = cache_dir()?;
        let root = cache.join(series.dir());
        if !root.join("boot").exists() {
            fetch(series, &cache, &root)?;
        }
        let modules = root.join("lib/modules");
        let release = std::fs::read_dir(&modules)
            .map_err(step("read the kernel's modules"))?
            .filter_map(|entry| entry.ok()?.file_name().into_string().ok())
            .next()
            .ok_or_else(|| Error::Step { step: "read the kernel's modules", why: "none there".into() })?;
        Ok(Kernel { root, release })
    }

    /// Its release, as `uname -r` says it.
    pub fn release(&self) -> &str {
        &self.release
    }

    /// The bzImage.
    pub fn image(&self) -> PathBuf {
        self.root.join(format!("boot/vmlinuz-{}", self.release))
    }

    /// The ELF kernel out of the bzImage: what boots without unpacking itself. Kept beside it.
    pub fn elf(&self) -> Result<PathBuf> {
        let elf = self.root.join("boot/vmlinux");
        if !elf.exists() {
            let image = std::fs::read(self.image()).map_err(step("read the kernel"))?;
            let broken = || Error::Step { step: "unpack the kernel", why: "no LZ4 payload in it".into() };
            let unpacked = payload(&image).and_then(crate::lz4::unpack).ok_or_else(broken)?;
            let whole = self.root.join(format!("boot/vmlinux.{}", std::process::id()));
            std::fs::write(&whole, unpacked).map_err(step("keep the kernel"))?;
            std::fs::rename(&whole, &elf).map_err(step("keep the kernel"))?;
        }
        Ok(elf)
    }

    /// Directory above `lib/modules`.
    pub(crate) fn root(&self) -> &Path {
        &self.root
    }
}

/// The packed kernel in a bzImage (Documentation/arch/x86/boot.rst), without the unpacked size behind it.
fn payload(image: &[u8]) -> Option<&[u8]> {
    let word = |at: usize| image.get(at..)?.first_chunk().map(|b| u32::from_le_bytes(*b) as usize);
    let start = (usize::from(*image.get(0x1f1)?) + 1) * 512 + word(0x248)?;
    image.get(start..start + word(0x24c)?.checked_sub(4)?)
}

fn cache_dir() -> Result<PathBuf> {
    let base = std::env::var_os("XDG_CACHE_HOME")
        .map(PathBuf::from)
        .or_else(|| std::env::var_os("HOME").map(|home| PathBuf::from(home).join(".cache")));
    let dir = base.ok_or_else(|| Error::Unavailable("neither XDG_CACHE_HOME nor HOME is set".into()))?;
    let dir = dir.join("sluice-test-kernels");
    std::fs::create_dir_all(&dir).map_err(step("make the cache directory"))?;
    Ok(dir)
}

/// Downloads and unpacks into a directory beside the wanted one, then renames: what is in the cache is whole.
fn fetch(series: Series, cache: &Path, root: &Path) -> Result<()> {
    let unavailable = |e: Error| Error::Unavailable(format!("cannot fetch {}: {e}", series.package()));
    let tmp = tempfile::Builder::new().prefix("get-").tempdir_in(cache).map_err(step("make a directory"))?;
    let apt = Apt::new(series, tmp.path())?;
    let shown =
        apt.run("apt-cache", &["show", "--no-all-versions", series.package()]).map_err(unavailable)?;
    let package = shown
        .lines()
        .filter_map(|line| line.strip_prefix("Depends: "))
        .flat_map(|line| line.split([',', ' ']))
        .find(|word| word.starts_with("linux-image-"))
        .ok_or_else(|| Error::Unavailable(format!("{} names no kernel", series.package())))?
        .to_owned();
    apt.run("apt-get", &["download", &package]).map_err(unavailable)?;
    let deb = std::fs::read_dir(tmp.path())
        .map_err(step("read the download"))?
        .filter_map(|entry| Some(entry.ok()?.path()))
        .find(|path| path.extension().is_some_and(|e| e == "deb"))
        .ok_or_else(|| Error::Unavailable(format!("apt-get download {package} left no file")))?;
    let unpacked = tmp.path().join("root");
    command("unpack the kernel", Command::new("dpkg-deb").arg("-x").arg(&deb).arg(&unpacked))?;
    let release = package.trim_start_matches("linux-image-").replace("-unsigned", "");
    // Debian 13 and its backports have /lib as a link into /usr.
    if !unpacked.join("lib/modules").exists() {
        std::fs::create_dir_all(unpacked.join("lib")).map_err(step("make a directory"))?;
        std::fs::rename(unpacked.join("usr/lib/modules"), unpacked.join("lib/modules"))
            .map_err(step("move the modules"))?;
    }
    command("depmod", Command::new("depmod").arg("-b").arg(&unpacked).arg(&release))?;
    std::fs::rename(&unpacked, root).map_err(step("keep the kernel"))
}

/// apt with its own lists where the machine's sources lack the series.
struct Apt {
    options: Vec<String>,
    dir: PathBuf,
}

impl Apt {
    fn new(series: Series, dir: &Path) -> Result<Apt> {
        let mut apt = Apt { options: vec!["-oAPT::Sandbox::User=root".into()], dir: dir.to_owned() };
        if series == Series::Backports {
            let (list, state) = (dir.join("sources.list"), dir.join("lists"));
            std::fs::write(&list, BACKPORTS).map_err(step("write the sources"))?;
            std::fs::create_dir_all(state.join("partial")).map_err(step("make a directory"))?;
            apt.options.push(format!("-oDir::Etc::SourceList={}", list.display()));
            apt.options.push("-oDir::Etc::SourceParts=/dev/null".into());
            apt.options.push(format!("-oDir::State::Lists={}", state.display()));
            apt.options.push(format!("-oDir::Cache::pkgcache={}", dir.join("pkgcache.bin").display()));
            apt.options.push(format!("-oDir::Cache::srcpkgcache={}", dir.join("srcpkgcache.bin").display()));
            let update = apt.run("apt-get", &["update"]);
            update.map_err(|e| Error::Unavailable(format!("the backports' list cannot be fetched: {e}")))?;
        }
        Ok(apt)
    }

    fn run(&self, program: &str, args: &[&str]) -> Result<String> {
        let mut apt = Command::new(program);
        apt.args(&self.options).args(args).current_dir(&self.dir).env("LC_ALL", "C");
        command("apt", &mut apt)
    }
}
