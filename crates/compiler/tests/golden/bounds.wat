;; settings: bounded
(module
  (memory 1)
  (func $covered (param i32) (result i32)
    (i32.store offset=8 (local.get 0) (i32.const 1))
    (i32.load offset=4 (local.get 0)))
  (func $small (param i32) (result i32) (i32.load offset=8 (i32.and (local.get 0) (i32.const 0xff))))
  (func $join (param i32 i32) (result i32)
    (drop (i32.load (local.get 0)))
    (if (local.get 1) (then (drop (i32.load offset=4 (local.get 0)))))
    (i32.load offset=4 (local.get 0)))
  (func $loop (param i32 i32)
    (drop (i32.load (local.get 0)))
    (loop
      (i32.store8 (local.get 1) (i32.load (local.get 0)))
      (br_if 0 (local.tee 1 (i32.sub (local.get 1) (i32.const 1)))))))
