//! How the product starts its tasks: on the runtime, and in a simulation on the machine that they belong to.

use std::future::Future;

use tokio::task::JoinHandle;

#[cfg(feature = "simulation")]
pub use machine::Machine;

/// As `tokio::spawn`. Under the feature `simulation` a task that is started on a simulated machine runs there.
pub fn spawn<F>(future: F) -> JoinHandle<F::Output>
where
    F: Future + Send + 'static,
    F::Output: Send + 'static,
{
    #[cfg(feature = "simulation")]
    if let Some(machine) = Machine::current() {
        return machine.spawn(future);
    }
    tokio::spawn(future)
}

#[cfg(feature = "simulation")]
mod machine {
    use std::cell::RefCell;
    use std::fmt;
    use std::future::Future;
    use std::pin::Pin;
    use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
    use std::task::{Context, Poll, Waker};

    use tokio::task::{AbortHandle, JoinHandle};

    thread_local! {
        static CURRENT: RefCell<Option<Arc<Machine>>> = const { RefCell::new(None) };
    }

    /// A simulated machine: all tasks that were started on it can be stopped, let go on, or ended between two polls.
    #[derive(Default)]
    pub struct Machine {
        state: Mutex<State>,
    }

    #[derive(Default)]
    struct State {
        stopped: bool,
        dead: bool,
        polls: u64,
        /// It ends after so many polls.
        dies_at: Option<u64>,
        /// Tasks that were woken while it stood still.
        woken: Vec<Waker>,
        tasks: Vec<AbortHandle>,
    }

    impl fmt::Debug for Machine {
        fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.debug_struct("Machine")
                .field("polls", &self.state().polls)
                .finish_non_exhaustive()
        }
    }

    impl Machine {
        pub fn new() -> Arc<Self> {
            Arc::default()
        }

        /// The machine whose task is being polled.
        pub fn current() -> Option<Arc<Self>> {
            CURRENT.with_borrow(Clone::clone)
        }

        /// Lets `work` start its tasks here.
        pub fn run<T>(self: &Arc<Self>, work: impl FnOnce() -> T) -> T {
            let before = CURRENT.replace(Some(Arc::clone(self)));
            let done = work();
            CURRENT.set(before);
            done
        }

        /// Starts a task here. On a dead machine it never runs.
        pub fn spawn<F>(self: &Arc<Self>, future: F) -> JoinHandle<F::Output>
        where
            F: Future + Send + 'static,
            F::Output: Send + 'static,
        {
            let task = tokio::spawn(Hosted {
                machine: Arc::clone(self),
                future: Box::pin(future),
            });
            let mut state = self.state();
            if state.dead {
                task.abort();
            } else {
                if state.tasks.len() == state.tasks.capacity() {
                    state.tasks.retain(|task| !task.is_finished());
                }
                state.tasks.push(task.abort_handle());
            }
            drop(state);
            task
        }

        /// Nothing here is polled from now on, as in a process that is stopped or starved.
        pub fn stop(&self) {
            self.state().stopped = true;
        }

        /// Whatever was woken meanwhile goes on, in the order in which it was woken.
        pub fn go_on(&self) {
            let woken = {
                let mut state = self.state();
                state.stopped = false;
                std::mem::take(&mut state.woken)
            };
            woken.into_iter().for_each(Waker::wake);
        }

        /// Every task here ends where it waits, as in a process that is killed.
        pub fn crash(&self) {
            let tasks = {
                let mut state = self.state();
                state.dead = true;
                state.woken.clear();
                std::mem::take(&mut state.tasks)
            };
            tasks.iter().for_each(AbortHandle::abort);
        }

        /// Crashes after `polls` more polls: at any await of any task.
        pub fn crash_after(&self, polls: u64) {
            let mut state = self.state();
            state.dies_at = Some(state.polls + polls.max(1));
        }

        /// Takes back a crash that has not come yet.
        pub fn spare(&self) {
            self.state().dies_at = None;
        }

        pub fn is_dead(&self) -> bool {
            self.state().dead
        }

        fn state(&self) -> MutexGuard<'_, State> {
            // Nothing panics while it is held.
            self.state.lock().unwrap_or_else(PoisonError::into_inner)
        }
    }

    struct Hosted<F: Future> {
        machine: Arc<Machine>,
        future: Pin<Box<F>>,
    }

    impl<F: Future> Future for Hosted<F> {
        type Output = F::Output;

        fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<F::Output> {
            {
                let mut state = self.machine.state();
                if state.dead {
                    return Poll::Pending; // About to be dropped.
                }
                if state.stopped {
                    state.woken.push(cx.waker().clone());
                    return Poll::Pending;
                }
                state.polls += 1;
            }
            let before = CURRENT.replace(Some(Arc::clone(&self.machine)));
            let polled = self.future.as_mut().poll(cx);
            CURRENT.set(before);
            let (dead, dies) = {
                let state = self.machine.state();
                let dies = state.dies_at.is_some_and(|at| state.polls >= at);
                (state.dead, dies && !state.dead)
            };
            if dies {
                self.machine.crash();
            }
            // What a machine did in its last poll is done; nobody there hears of it.
            if dead || dies {
                return Poll::Pending;
            }
            polled
        }
    }
}
