# One set of flags for all our code. -ffp-contract=off and --fmad=false where SPEC section 4 wants single roundings.
add_library(innerq_flags INTERFACE)
target_include_directories(innerq_flags INTERFACE ${PROJECT_SOURCE_DIR}/include ${PROJECT_SOURCE_DIR}
                                                  ${PROJECT_SOURCE_DIR}/launch)
set(innerq_warnings -Wall -Wextra)
if(INNERQ_WERROR)
    list(APPEND innerq_warnings -Werror)
endif()
target_compile_options(innerq_flags INTERFACE
    $<$<COMPILE_LANGUAGE:CXX>:${innerq_warnings};-ffp-contract=off;-fvisibility=hidden>
    "$<$<COMPILE_LANGUAGE:CUDA>:SHELL:-Xcompiler=-Wall,-Wextra,-fvisibility=hidden>"
    $<$<AND:$<COMPILE_LANGUAGE:CUDA>,$<BOOL:${INNERQ_WERROR}>>:-Werror=all-warnings>)
target_link_options(innerq_flags INTERFACE -Wl,-z,defs)
