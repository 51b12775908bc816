;; settings: fuel
;; References across calls and in a metered loop: the call of the fuel stub has no stack map.
(module
  (import "host" "f" (func $f))
  (global $g (mut externref) (ref.null extern))
  (func $across (param externref) (result externref)
    (call $f)
    (local.get 0))
  (func $loop (param $r externref) (param $n i32)
    (loop $again
      (global.set $g (local.get $r))
      (br_if $again (local.tee $n (i32.sub (local.get $n) (i32.const 1)))))))
