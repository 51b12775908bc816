//! What can be a host function: plain closures, `async` closures, and closures over slices of values.
//!
//! An `async` closure that uses its captures lends them to its future: it is `AsyncFn` and not `Fn`, and the future of an
//! `AsyncFn` cannot be named, so it cannot be asked to be `Send`. But it is `FnOnce`, whose output can be named, and `Clone` when its
//! captures are. So an async host function is cloned for each call (free without captures), and the traits here name the future.

use crate::error::Result;
use crate::store::Caller;
use crate::value::{Raw, RawList, Ret, Val};
use std::future::Future;

/// A closure that is a host function: `|a: i32, b: i64| -> R` or `|caller: Caller<'_, T>, a: i32| -> R`, of up to 16 parameters, where
/// `R` is a [`WasmRet`](crate::WasmRet).
///
/// `P` and `R` tell the implementations apart; they are inferred.
#[doc(alias = "IntoFunc")]
pub trait HostFn<T, P, R>: Send + Sync + 'static {
    #[doc(hidden)]
    type Params: RawList;
    #[doc(hidden)]
    type Results: RawList;
    #[doc(hidden)]
    fn invoke(&self, caller: Caller<'_, T>, params: Self::Params) -> Result<Self::Results>;
}

macro_rules! host_fn {
    ($($name:ident),*) => {
        impl<T, Func, Return, $($name,)*> HostFn<T, ($($name,)*), Return> for Func
        where
            Func: Fn($($name),*) -> Return + Send + Sync + 'static,
            Return: Ret,
            $($name: Raw,)*
        {
            type Params = ($($name,)*);
            type Results = Return::Values;
            #[inline(always)]
            #[allow(non_snake_case)]
            fn invoke(&self, _: Caller<'_, T>, ($($name,)*): Self::Params) -> Result<Self::Results> {
                self($($name),*).into_values()
            }
        }

        impl<T, Func, Return, $($name,)*> HostFn<T, (Caller<'static, T>, $($name,)*), Return> for Func
        where
            T: 'static,
            Func: Fn(Caller<'_, T>, $($name),*) -> Return + Send + Sync + 'static,
            Return: Ret,
            $($name: Raw,)*
        {
            type Params = ($($name,)*);
            type Results = Return::Values;
            #[inline(always)]
            #[allow(non_snake_case)]
            fn invoke(&self, caller: Caller<'_, T>, ($($name,)*): Self::Params) -> Result<Self::Results> {
                self(caller, $($name),*).into_values()
            }
        }
    };
}

host_fn!();
host_fn!(A);
host_fn!(A, B);
host_fn!(A, B, C);
host_fn!(A, B, C, D);
host_fn!(A, B, C, D, E);
host_fn!(A, B, C, D, E, F);
host_fn!(A, B, C, D, E, F, G);
host_fn!(A, B, C, D, E, F, G, H);
host_fn!(A, B, C, D, E, F, G, H, I);
host_fn!(A, B, C, D, E, F, G, H, I, J);
host_fn!(A, B, C, D, E, F, G, H, I, J, K);
host_fn!(A, B, C, D, E, F, G, H, I, J, K, L);
host_fn!(A, B, C, D, E, F, G, H, I, J, K, L, M);
host_fn!(A, B, C, D, E, F, G, H, I, J, K, L, M, N);
host_fn!(A, B, C, D, E, F, G, H, I, J, K, L, M, N, O);
host_fn!(A, B, C, D, E, F, G, H, I, J, K, L, M, N, O, P);

/// An `async` closure that is a host function: `async |caller: Caller<'_, T>, (a, b): (i32, i32)| -> Result<i32> { .. }`.
///
/// Its future must be `Send`, since a parked call may be polled on another thread. Captures must be `Clone`: state belongs in the
/// store's data.
pub trait HostAsyncFn<'a, T: 'a, P, R>: Clone + Send + Sync + 'static {
    #[doc(hidden)]
    type Future: Future<Output = R> + Send + 'a;
    #[doc(hidden)]
    fn start(&self, caller: Caller<'a, T>, params: P) -> Self::Future;
}

impl<'a, T, P, R, F, Fut> HostAsyncFn<'a, T, P, R> for F
where
    T: 'a,
    F: FnOnce(Caller<'a, T>, P) -> Fut + Clone + Send + Sync + 'static,
    Fut: Future<Output = R> + Send + 'a,
{
    type Future = Fut;
    #[inline(always)]
    fn start(&self, caller: Caller<'a, T>, params: P) -> Fut {
        self.clone()(caller, params)
    }
}

/// A closure over slices of values that is a host function: parameters in order, results to be written.
pub trait HostValsFn<T>: Fn(Caller<'_, T>, &[Val], &mut [Val]) -> Result<()> + Send + Sync + 'static {}

impl<T, F> HostValsFn<T> for F where
    F: Fn(Caller<'_, T>, &[Val], &mut [Val]) -> Result<()> + Send + Sync + 'static
{
}

/// An `async` closure over slices of values that is a host function.
pub trait HostValsAsyncFn<'a, T: 'a>: Clone + Send + Sync + 'static {
    #[doc(hidden)]
    type Future: Future<Output = Result<()>> + Send + 'a;
    #[doc(hidden)]
    fn start(&self, caller: Caller<'a, T>, params: &'a [Val], results: &'a mut [Val]) -> Self::Future;
}

impl<'a, T, F, Fut> HostValsAsyncFn<'a, T> for F
where
    T: 'a,
    F: FnOnce(Caller<'a, T>, &'a [Val], &'a mut [Val]) -> Fut + Clone + Send + Sync + 'static,
    Fut: Future<Output = Result<()>> + Send + 'a,
{
    type Future = Fut;
    fn start(&self, caller: Caller<'a, T>, params: &'a [Val], results: &'a mut [Val]) -> Fut {
        self.clone()(caller, params, results)
    }
}

/// An `async` closure that is asked when fuel is used up: see [`Store::on_fuel_zero_async`](crate::Store::on_fuel_zero_async).
pub trait FuelAsyncFn<'a, T: 'a>: Clone + Send + Sync + 'static {
    #[doc(hidden)]
    type Future: Future<Output = Result<u64>> + Send + 'a;
    #[doc(hidden)]
    fn start(&self, caller: Caller<'a, T>) -> Self::Future;
}

impl<'a, T, F, Fut> FuelAsyncFn<'a, T> for F
where
    T: 'a,
    F: FnOnce(Caller<'a, T>) -> Fut + Clone + Send + Sync + 'static,
    Fut: Future<Output = Result<u64>> + Send + 'a,
{
    type Future = Fut;
    fn start(&self, caller: Caller<'a, T>) -> Fut {
        self.clone()(caller)
    }
}
