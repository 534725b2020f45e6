# Compiles with zig, which brings a compiler and a C library for every target. The environment says which:
# ZIG is the program, ZIG_TARGET what it calls the machine and its C library.
set(CMAKE_SYSTEM_NAME Linux)
string(REGEX MATCH "^[^-]+" CMAKE_SYSTEM_PROCESSOR $ENV{ZIG_TARGET})
if(CMAKE_SYSTEM_PROCESSOR STREQUAL aarch64)
  # A Raspberry Pi Zero 2 W to 4: zig's Cortex-A53 has instructions for cryptography, those have not.
  set(CPU cortex_a53-crypto-aes-sha2)
  # zig knows CPUs, but no -march.
  set(DOT_PRODUCT -mcpu=generic+dotprod CACHE STRING "What lets the compiler use SDOT")
else()
  # EVEX512 alone brings nothing, but without it -mavx512* of a file is not enough for this version of clang.
  set(CPU x86_64+evex512)
endif()
# zig builds its own libraries when it links, for CMake's first questions too: none for C++, which nothing needs, and the
# others optimised at once, not also for debugging, which takes minutes.
set(CMAKE_CXX_COMPILER $ENV{ZIG} c++ -target $ENV{ZIG_TARGET} -mcpu=${CPU} -nostdlib++ -O3)
set(CMAKE_MODULE_LINKER_FLAGS_INIT -s)
