# Targets of this project: one library per directory, one test executable per library.
#
#   umblock_library(NAME SRCS a.cc b.cc DEPS other_lib)
#   umblock_test(NAME SRCS a_test.cc DEPS lib [LABELS slow] [TIMEOUT 120])
#
# A library is linked by its name; includes are written from the top of the tree
# ("engine/base/error.h").

set(CMAKE_CXX_STANDARD 23)
set(CMAKE_CXX_STANDARD_REQUIRED ON)
set(CMAKE_CXX_EXTENSIONS OFF)
set(CMAKE_EXPORT_COMPILE_COMMANDS ON)
set(CMAKE_POSITION_INDEPENDENT_CODE ON)

find_program(UMBLOCK_CCACHE ccache)
if(UMBLOCK_CCACHE AND NOT CMAKE_CXX_COMPILER_LAUNCHER)
  set(CMAKE_C_COMPILER_LAUNCHER ${UMBLOCK_CCACHE})
  set(CMAKE_CXX_COMPILER_LAUNCHER ${UMBLOCK_CCACHE})
endif()

add_library(umblock_options INTERFACE)
target_include_directories(umblock_options INTERFACE ${CMAKE_SOURCE_DIR})
target_compile_options(umblock_options INTERFACE
  -Wall -Wextra -Werror -Wshadow -Wnon-virtual-dtor -Woverloaded-virtual
  -Wimplicit-fallthrough -Wunused -Wno-missing-field-initializers
  -fno-omit-frame-pointer)
target_link_options(umblock_options INTERFACE -fuse-ld=lld)
if(UMBLOCK_SANITIZE)
  target_compile_options(umblock_options INTERFACE
    -fsanitize=${UMBLOCK_SANITIZE} -fno-sanitize-recover=all)
  target_link_options(umblock_options INTERFACE -fsanitize=${UMBLOCK_SANITIZE})
endif()

function(umblock_library name)
  cmake_parse_arguments(ARG "" "" "SRCS;DEPS" ${ARGN})
  add_library(${name} STATIC ${ARG_SRCS})
  target_link_libraries(${name} PUBLIC umblock_options ${ARG_DEPS})
endfunction()

function(umblock_executable name)
  cmake_parse_arguments(ARG "" "" "SRCS;DEPS" ${ARGN})
  add_executable(${name} ${ARG_SRCS})
  target_link_libraries(${name} PRIVATE umblock_options ${ARG_DEPS})
endfunction()

function(umblock_test name)
  cmake_parse_arguments(ARG "" "TIMEOUT" "SRCS;DEPS;LABELS" ${ARGN})
  add_executable(${name} ${ARG_SRCS})
  target_link_libraries(${name} PRIVATE umblock_options ${ARG_DEPS} GTest::gmock GTest::gtest_main)
  target_compile_definitions(${name} PRIVATE UMBLOCK_SOURCE_DIR="${CMAKE_SOURCE_DIR}")
  if(NOT ARG_TIMEOUT)
    set(ARG_TIMEOUT 300)
  endif()
  add_test(NAME ${name} COMMAND ${name})
  set_tests_properties(${name} PROPERTIES TIMEOUT ${ARG_TIMEOUT} LABELS "${ARG_LABELS}")
endfunction()
