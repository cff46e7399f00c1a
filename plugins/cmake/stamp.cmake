# build_stamp.h with the commit the sources come from, made anew at every build and rewritten only when it changes.
# Included by CMakeLists.txt it defines innerq_stamp(); run as a script (-P) it writes the header.
if(CMAKE_SCRIPT_MODE_FILE)
    if(NOT HASH)
        execute_process(COMMAND git -C ${SOURCE} describe --always --abbrev=12 --match=none --dirty=+dirty
                        OUTPUT_VARIABLE HASH OUTPUT_STRIP_TRAILING_WHITESPACE ERROR_QUIET)
    endif()
    if(NOT HASH)
        set(HASH unknown)
    endif()
    set(text "#define INNERQ_GIT_HASH \"${HASH}\"\n#define INNERQ_CUDA_VERSION ${CUDA}\n")
    string(APPEND text "#define INNERQ_ARCHITECTURES \"${ARCHITECTURES}\"\n")
    set(old "")
    if(EXISTS ${OUT})
        file(READ ${OUT} old)
    endif()
    if(NOT text STREQUAL old)
        file(WRITE ${OUT} "${text}")
    endif()
    return()
endif()

set(innerq_stamp_script ${CMAKE_CURRENT_LIST_FILE})

# innerq_stamp(target cuda_version architectures): gives `target` its build_stamp.h.
function(innerq_stamp target cuda architectures)
    set(folder ${CMAKE_CURRENT_BINARY_DIR}/${target}_stamp)
    add_custom_target(${target}_stamp BYPRODUCTS ${folder}/build_stamp.h VERBATIM
        COMMAND ${CMAKE_COMMAND} -DSOURCE=${PROJECT_SOURCE_DIR} -DHASH=${INNERQ_GIT_HASH} -DCUDA=${cuda}
                "-DARCHITECTURES=${architectures}" -DOUT=${folder}/build_stamp.h -P ${innerq_stamp_script})
    add_dependencies(${target} ${target}_stamp)
    target_include_directories(${target} PRIVATE ${folder})
endfunction()
