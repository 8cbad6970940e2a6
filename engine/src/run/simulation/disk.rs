//! A disk in memory under the real SQLite, through its file layer (VFS).
//!
//! A file has what is durable and what was written since: a `sync` moves the one into the other.
//! After a power loss, any of the unsynced writes are there, in any order, cut into sectors, some
//! torn in the middle; files that were made, cut or deleted and not synced may be as before. After
//! the death of the process alone, everything written is there. A `sync` of a new WAL or journal
//! also syncs its folder, as SQLite's own layer does.
//!
//! Never does: shared memory, mapped files, several connections, time (nothing waits here).

use std::collections::BTreeMap;
use std::io::{Error, ErrorKind};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use sqlite_vfs::{DatabaseHandle, LockKind, OpenAccess, OpenOptions, Vfs, WalDisabled};

use super::dice::Dice;

/// The unit in which a power loss keeps or loses what was written.
const SECTOR: usize = 512;

/// What SQLite puts aside while it works; nobody else ever sees it.
const TEMPORARY: &str = "temporary";

/// What happens at an operation of the disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Trouble {
    /// The process dies: everything written stays, synced or not.
    Death,
    /// The machine loses power.
    PowerLoss,
    /// The operation fails, once.
    Error,
    /// There is no room for this and every later write.
    Full,
}

impl Trouble {
    pub(super) const ALL: [Self; 4] = [Self::Death, Self::PowerLoss, Self::Error, Self::Full];

    /// As it is written on the command line.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Death => "death",
            Self::PowerLoss => "power-loss",
            Self::Error => "error",
            Self::Full => "full",
        }
    }
}

#[derive(Debug, Clone)]
enum Change {
    Write(usize, Vec<u8>),
    Cut(usize),
}

#[derive(Debug, Clone, Default)]
struct Inode {
    durable: Vec<u8>,
    now: Vec<u8>,
    since: Vec<Change>,
}

/// What survives of a disk.
#[derive(Debug, Clone, Default)]
pub(super) struct Platter {
    files: BTreeMap<String, Vec<u8>>,
}

#[derive(Default)]
struct State {
    inodes: Vec<Inode>,
    /// Names as they are, and as they are durably; `None` in `renames` is a deletion.
    names: BTreeMap<String, usize>,
    durable_names: BTreeMap<String, usize>,
    name_changes: Vec<(String, Option<usize>)>,
    operations: u64,
    trouble: Option<(u64, Trouble)>,
    full: bool,
    lying: bool,
    dead: Option<Trouble>,
    log: Vec<String>,
}

/// One disk during the life of one process.
pub(super) struct Disk {
    state: Mutex<State>,
    on_death: Box<dyn Fn() + Send + Sync>,
}

impl Disk {
    /// A disk with what survived. `trouble`: at which operation (from 1), and what. `lying`: `sync`
    /// says done and does nothing. `on_death` is called at the moment of a death or power loss.
    pub(super) fn new(
        platter: &Platter,
        trouble: Option<(u64, Trouble)>,
        lying: bool,
        on_death: Box<dyn Fn() + Send + Sync>,
    ) -> Arc<Self> {
        let mut state = State { trouble, lying, ..State::default() };
        for (name, bytes) in &platter.files {
            state.names.insert(name.clone(), state.inodes.len());
            state.inodes.push(Inode { durable: bytes.clone(), now: bytes.clone(), since: Vec::new() });
        }
        state.durable_names = state.names.clone();
        Arc::new(Self { state: Mutex::new(state), on_death })
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Operations so far that write or sync.
    pub(super) fn operations(&self) -> u64 {
        self.lock().operations
    }

    /// What was done, for the trace; forgets it.
    pub(super) fn take_log(&self) -> Vec<String> {
        std::mem::take(&mut self.lock().log)
    }

    /// Everything after this moment is lost on a process that no longer lives.
    pub(super) fn kill(&self, how: Trouble) {
        let mut state = self.lock();
        state.dead.get_or_insert(how);
    }

    /// What is there after the end of the process; `power_loss`: of the machine.
    pub(super) fn survivors(&self, power_loss: bool, dice: &mut Dice) -> Platter {
        let state = self.lock();
        let names = if power_loss { state.names_after_loss(dice) } else { state.names.clone() };
        let mut files = BTreeMap::new();
        // How much the disk has written behind our back: little, much, or all of it.
        let luck = [0, 100, 500, 900, 1000][dice.below(5) as usize];
        for (name, inode) in names {
            let inode = &state.inodes[inode];
            let bytes = if power_loss { inode.after_loss(luck, dice) } else { inode.now.clone() };
            files.insert(name, bytes);
        }
        Platter { files }
    }

    /// Counts an operation that changes the disk, and does what is to happen at it. `Ok(false)`:
    /// the operation itself must fail half-way.
    fn operation(&self, what: &str, writes: bool) -> Result<bool, Error> {
        let mut state = self.lock();
        if state.dead.is_some() {
            return Err(Error::other("the process is dead"));
        }
        state.operations += 1;
        let count = state.operations;
        let trouble = state.trouble.filter(|(at, _)| *at == count).map(|(_, trouble)| trouble);
        let told = trouble.map_or(String::new(), |trouble| format!(": {trouble:?}"));
        state.log.push(format!("disk #{count} {what}{told}"));
        match trouble {
            Some(how @ (Trouble::Death | Trouble::PowerLoss)) => {
                state.dead = Some(how);
                drop(state);
                (self.on_death)();
                Ok(false)
            }
            Some(Trouble::Error) => Ok(false),
            Some(Trouble::Full) => {
                state.full = true;
                Err(ErrorKind::WriteZero.into())
            }
            None if state.full && writes => Err(ErrorKind::WriteZero.into()),
            None => Ok(true),
        }
    }
}

impl State {
    /// Each name is as some moment since the last sync of the folder left it.
    fn names_after_loss(&self, dice: &mut Dice) -> BTreeMap<String, usize> {
        let mut names = self.durable_names.clone();
        let changed: std::collections::BTreeSet<&String> =
            self.name_changes.iter().map(|(name, _)| name).collect();
        for name in changed {
            let changes: Vec<_> = self.name_changes.iter().filter(|(other, _)| other == name).collect();
            match dice.below(changes.len() as u64 + 1) as usize {
                0 => {}
                kept => match changes[kept - 1].1 {
                    Some(inode) => drop(names.insert(name.clone(), inode)),
                    None => drop(names.remove(name)),
                },
            }
        }
        names
    }
}

impl Inode {
    fn write(&mut self, at: usize, bytes: &[u8]) {
        put(&mut self.now, at, bytes);
        self.since.push(Change::Write(at, bytes.to_vec()));
    }

    fn cut(&mut self, size: usize) {
        self.now.resize(size, 0);
        self.since.push(Change::Cut(size));
    }

    fn sync(&mut self) {
        self.durable = self.now.clone();
        self.since.clear();
    }

    /// Any of the changes since the last sync, sector by sector, some torn.
    fn after_loss(&self, luck: u64, dice: &mut Dice) -> Vec<u8> {
        let mut bytes = self.durable.clone();
        let mut pieces: Vec<Change> = Vec::new();
        for change in &self.since {
            match change {
                Change::Cut(_) => pieces.push(change.clone()),
                Change::Write(at, data) => {
                    let mut from = 0;
                    while from < data.len() {
                        let end = (((at + from) / SECTOR + 1) * SECTOR - at).min(data.len());
                        pieces.push(Change::Write(at + from, data[from..end].to_vec()));
                        from = end;
                    }
                }
            }
        }
        // Any order: each piece may have reached the platter before one that was written earlier.
        for at in (1..pieces.len()).rev() {
            if dice.chance(luck.min(300)) {
                pieces.swap(at, dice.below(at as u64 + 1) as usize);
            }
        }
        for piece in pieces {
            if !dice.chance(luck) {
                continue;
            }
            match piece {
                Change::Cut(size) => bytes.resize(size, 0),
                Change::Write(at, data) => {
                    let torn = dice.chance(100);
                    let length = if torn { dice.below(data.len() as u64 + 1) as usize } else { data.len() };
                    put(&mut bytes, at, &data[..length]);
                }
            }
        }
        bytes
    }
}

fn put(file: &mut Vec<u8>, at: usize, bytes: &[u8]) {
    if bytes.is_empty() {
        return;
    }
    if file.len() < at + bytes.len() {
        file.resize(at + bytes.len(), 0);
    }
    file[at..at + bytes.len()].copy_from_slice(bytes);
}

/// Where each SQLite file name leads: `/ID/name` on the disk mounted as ID.
type Mounts = Mutex<BTreeMap<u64, Arc<Disk>>>;

fn mounts() -> &'static Mounts {
    static MOUNTS: OnceLock<Mounts> = OnceLock::new();
    MOUNTS.get_or_init(Mounts::default)
}

/// A disk that SQLite can reach, until dropped.
pub(super) struct Mounted(u64);

impl Mounted {
    /// Mounts `disk` at `id`, which nothing else uses.
    pub(super) fn new(id: u64, disk: Arc<Disk>) -> Self {
        mounts().lock().unwrap_or_else(PoisonError::into_inner).insert(id, disk);
        Self(id)
    }

    /// The store's file on it.
    pub(super) fn path(&self) -> String {
        format!("/{}/state.db", self.0)
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        mounts().lock().unwrap_or_else(PoisonError::into_inner).remove(&self.0);
    }
}

/// Makes the VFS `name` known to SQLite, for ever. One for each thread that simulates: the crate
/// between does not lock its own state.
pub(super) fn register(name: &str) {
    sqlite_vfs::register(name, Layer, false).expect("SQLite takes any number of file layers");
}

struct Layer;

fn find(path: &str) -> Result<(Arc<Disk>, String), Error> {
    let gone = || Error::other("there is no such disk");
    let (id, name) = path.strip_prefix('/').and_then(|path| path.split_once('/')).ok_or_else(gone)?;
    let id: u64 = id.parse().map_err(|_| gone())?;
    let mounts = mounts().lock().unwrap_or_else(PoisonError::into_inner);
    Ok((mounts.get(&id).cloned().ok_or_else(gone)?, name.to_owned()))
}

impl Vfs for Layer {
    type Handle = Handle;

    fn open(&self, path: &str, options: OpenOptions) -> Result<Handle, Error> {
        if path.starts_with(TEMPORARY) {
            // Nobody else sees it, and it is gone with the process.
            let disk = Disk::new(&Platter::default(), None, false, Box::new(|| ()));
            disk.lock().inodes.push(Inode::default());
            return Ok(Handle { disk, inode: 0, name: path.to_owned(), fresh: false, lock: LockKind::None });
        }
        let (disk, name) = find(path)?;
        let known = disk.lock().names.get(&name).copied();
        let mut fresh = false;
        let inode = match known {
            Some(_) if options.access == OpenAccess::CreateNew => return Err(ErrorKind::AlreadyExists.into()),
            Some(inode) => inode,
            None if matches!(options.access, OpenAccess::Create | OpenAccess::CreateNew) => {
                if !disk.operation(&format!("make {name}"), true)? {
                    return Err(Error::other("simulated error"));
                }
                fresh = true;
                let mut state = disk.lock();
                state.inodes.push(Inode::default());
                let inode = state.inodes.len() - 1;
                state.names.insert(name.clone(), inode);
                state.name_changes.push((name.clone(), Some(inode)));
                inode
            }
            None => return Err(ErrorKind::NotFound.into()),
        };
        Ok(Handle { disk, inode, name, fresh, lock: LockKind::None })
    }

    fn delete(&self, path: &str) -> Result<(), Error> {
        if path.starts_with(TEMPORARY) {
            return Ok(());
        }
        let (disk, name) = find(path)?;
        if !disk.lock().names.contains_key(&name) {
            return Err(ErrorKind::NotFound.into());
        }
        if !disk.operation(&format!("delete {name}"), false)? {
            return Err(Error::other("simulated error"));
        }
        let mut state = disk.lock();
        state.names.remove(&name);
        state.name_changes.push((name, None));
        Ok(())
    }

    fn exists(&self, path: &str) -> Result<bool, Error> {
        let (disk, name) = find(path)?;
        Ok(disk.lock().names.contains_key(&name))
    }

    fn temporary_name(&self) -> String {
        TEMPORARY.to_owned()
    }

    fn random(&self, buffer: &mut [i8]) {
        buffer.fill(7);
    }

    fn sleep(&self, duration: Duration) -> Duration {
        duration
    }
}

/// One open file.
struct Handle {
    disk: Arc<Disk>,
    inode: usize,
    name: String,
    /// Its name is not yet durable.
    fresh: bool,
    lock: LockKind,
}

impl DatabaseHandle for Handle {
    type WalIndex = WalDisabled;

    fn size(&self) -> Result<u64, Error> {
        Ok(self.disk.lock().inodes[self.inode].now.len() as u64)
    }

    fn read_exact_at(&mut self, buffer: &mut [u8], offset: u64) -> Result<(), Error> {
        let state = self.disk.lock();
        if state.dead.is_some() {
            return Err(Error::other("the process is dead"));
        }
        let bytes = &state.inodes[self.inode].now;
        let from = (offset as usize).min(bytes.len());
        let length = buffer.len().min(bytes.len() - from);
        buffer[..length].copy_from_slice(&bytes[from..from + length]);
        buffer[length..].fill(0);
        if length < buffer.len() { Err(ErrorKind::UnexpectedEof.into()) } else { Ok(()) }
    }

    fn write_all_at(&mut self, buffer: &[u8], offset: u64) -> Result<(), Error> {
        let whole = self.disk.operation(&format!("write {} {offset}+{}", self.name, buffer.len()), true)?;
        let mut state = self.disk.lock();
        // A write that fails has got half-way.
        let length = if whole { buffer.len() } else { buffer.len() / 2 };
        state.inodes[self.inode].write(offset as usize, &buffer[..length]);
        if whole { Ok(()) } else { Err(Error::other("simulated error")) }
    }

    fn sync(&mut self, _: bool) -> Result<(), Error> {
        if !self.disk.operation(&format!("sync {}", self.name), false)? {
            return Err(Error::other("simulated error"));
        }
        let mut state = self.disk.lock();
        if state.lying {
            return Ok(());
        }
        state.inodes[self.inode].sync();
        if std::mem::take(&mut self.fresh) && !self.name.ends_with(".db") {
            state.durable_names = state.names.clone();
            state.name_changes.clear();
        }
        Ok(())
    }

    fn set_len(&mut self, size: u64) -> Result<(), Error> {
        if !self.disk.operation(&format!("cut {} to {size}", self.name), false)? {
            return Err(Error::other("simulated error"));
        }
        self.disk.lock().inodes[self.inode].cut(size as usize);
        Ok(())
    }

    fn lock(&mut self, lock: LockKind) -> Result<bool, Error> {
        // One connection, so that nobody can be in the way.
        self.lock = lock;
        Ok(true)
    }

    fn reserved(&mut self) -> Result<bool, Error> {
        Ok(false)
    }

    fn current_lock(&self) -> Result<LockKind, Error> {
        Ok(self.lock)
    }

    fn wal_index(&self, _: bool) -> Result<WalDisabled, Error> {
        Ok(WalDisabled)
    }
}
