(module
  (func $select (param f32 f32 i32) (result f32)
    (select (local.get 0) (local.get 1) (local.get 2)))
  (func $drop (param i32) (drop (local.get 0)))
  (func $typed_select (param externref externref i32) (result externref)
    (select (result externref) (local.get 0) (local.get 1) (local.get 2)))
  (func $nop (nop)))
