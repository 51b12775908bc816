;; settings: bounded
(module
  (memory 1 2 shared)
  (func $load (param i32) (result i32) (i32.atomic.load offset=16 (local.get 0)))
  (func $add (param i32 i64) (result i64) (i64.atomic.rmw.add (local.get 0) (local.get 1)))
  (func $cmpxchg (param i32 i64 i64) (result i64) (i64.atomic.rmw32.cmpxchg_u (local.get 0) (local.get 1) (local.get 2)))
)
