//! A recorded run: what a store did to its directory, and what it had acknowledged at each step.

use blobpack::commit::Tuning;
use blobpack::index::table::Events;
use blobpack::medium::{Sim, SimDirectory, Step};
use blobpack::store::How;
use blobpack::{Error, OpenOptions, Store};

use super::model::{Contents, Generator, Model, Op, run};
use super::power::Power;

/// The longest that a simulated file can become. Of so much memory at once the allocator asks the system anew each time,
/// and need not zero it.
pub const FILE_BYTES_MAX: u64 = 40 << 20;
pub const NAME: &str = "pack";

/// Small enough that a short run splits segments, doubles the directory, checkpoints and goes through several chunks.
pub fn options() -> OpenOptions {
    OpenOptions::new().tuning(Tuning {
        slots: 4,
        chunk_bytes: 64 << 10,
        checkpoint_images: 40,
        checkpoint_bytes: 1 << 20,
        ..Tuning::default()
    })
}

pub fn create(directory: &SimDirectory, options: &OpenOptions) -> Result<Store<Sim>, Error> {
    let file = directory.create(NAME).map_err(|source| failed("create", source))?;
    Ok(options.create_in(file)?.expect("nothing is at the path"))
}

pub fn open(directory: &SimDirectory, options: &OpenOptions) -> Result<Store<Sim>, Error> {
    open_how(directory, options, How::Open)
}

pub fn open_how(directory: &SimDirectory, options: &OpenOptions, how: How) -> Result<Store<Sim>, Error> {
    let file = directory.open(NAME, true).map_err(|source| failed("open", source))?;
    Ok(options.open_in(file, how)?.expect("nobody replaces the file"))
}

pub fn open_read_only(directory: &SimDirectory) -> Result<Store<Sim>, Error> {
    let file = directory.open(NAME, false).map_err(|source| failed("open", source))?;
    Ok(OpenOptions::new().read_only(true).open_in(file, How::Open)?.expect("a reader takes what is there"))
}

fn failed(operation: &'static str, source: std::io::Error) -> Error {
    Error::Io { operation, path: NAME.into(), source }
}

/// Operation `n` made the steps from `starts` to the next one's; after them `after` was acknowledged.
pub struct Acknowledged {
    pub start: usize,
    pub end: usize,
    pub op: Op,
    pub after: Model,
}

/// See the module.
pub struct History {
    pub steps: Vec<Step>,
    pub boot: u64,
    /// The step by which the creation had been acknowledged.
    pub created: usize,
    pub acknowledged: Vec<Acknowledged>,
    pub contents: Contents,
    pub events: Events,
    pub checkpoints: usize,
    pub compactions: usize,
}

impl History {
    /// Records a run of `count` operations; those at `compact_at` are compactions.
    pub fn record(seed: u64, count: usize, compact_at: &[usize], options: &OpenOptions) -> History {
        let directory = SimDirectory::new(FILE_BYTES_MAX);
        directory.record(true);
        let mut store = create(&directory, options).unwrap();
        let created = directory.step_count();
        let mut generator = Generator::new(seed);
        let (mut model, mut acknowledged, mut events) = (Model::default(), Vec::new(), Events::default());
        let (mut checkpoints, mut compactions) = (0, 0);
        for number in 0..count {
            let start = directory.step_count();
            let op = match number {
                _ if compact_at.contains(&number) => Op::Compact,
                _ if number % 25 == 20 => Op::Checkpoint,
                _ => generator.next(&model),
            };
            let expected = model.apply(&op);
            if matches!(op, Op::Compact | Op::Reopen) {
                add(&mut events, store.index_events().unwrap());
            }
            if let Op::Reopen = op {
                store.close().unwrap();
                store = open(&directory, options).unwrap();
                assert_eq!(store.recovery(), blobpack::Recovery::default(), "a closed pack has nothing to replay");
            } else {
                let result = run(&store, &op);
                assert_eq!(result.is_ok(), expected, "seed {seed}, operation {number}, {}: {result:?}", kind(&op));
            }
            checkpoints += usize::from(matches!(op, Op::Checkpoint));
            compactions += usize::from(matches!(op, Op::Compact));
            acknowledged.push(Acknowledged { start, end: directory.step_count(), op, after: model.clone() });
        }
        add(&mut events, store.index_events().unwrap());
        assert_eq!(Model::of(&store, &generator.contents).unwrap(), model);
        History {
            steps: directory.steps(),
            boot: directory.boot(),
            created,
            acknowledged,
            contents: generator.contents,
            events,
            checkpoints,
            compactions,
        }
    }

    /// What may be there after a crash when the first `upto` steps were made: what was acknowledged, and, inside of an
    /// operation, that with it.
    pub fn allowed(&self, upto: usize) -> Vec<Model> {
        let mut before = Model::default();
        for done in &self.acknowledged {
            if upto <= done.start {
                break;
            }
            if upto < done.end {
                return vec![before, done.after.clone()];
            }
            before = done.after.clone();
        }
        vec![before]
    }

    /// A process that is killed in the middle of the last one of so many steps: what the disk has then, for a power
    /// cut, and what the next process finds, whose steps are recorded.
    pub fn killed(&self, upto: usize) -> (Power, SimDirectory) {
        let mut power = Power::default();
        self.steps[..upto - 1].iter().for_each(|step| power.make(step));
        power.begin(&self.steps[upto - 1]);
        let directory = SimDirectory::replay(&self.steps, upto, FILE_BYTES_MAX);
        directory.set_boot(self.boot);
        directory.record(true);
        (power, directory)
    }

    /// The operation that a step belongs to, for messages.
    pub fn at(&self, upto: usize) -> String {
        let number = self.acknowledged.iter().position(|done| upto <= done.end);
        match number {
            Some(number) => format!("in operation {number}, {}", kind(&self.acknowledged[number].op)),
            None => "at the end".into(),
        }
    }
}

/// What an operation is, without its bytes.
pub fn kind(op: &Op) -> String {
    let text = format!("{op:?}");
    text.split(['(', ' ']).next().unwrap_or_default().to_string()
}

fn add(sum: &mut Events, more: Events) {
    sum.copies += more.copies;
    sum.splits += more.splits;
    sum.doublings += more.doublings;
}
