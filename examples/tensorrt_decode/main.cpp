// tensorrt_decode FOLDER COUNT ID...: reads the prompt's token ids, prints COUNT more, greedily.
#include <cstdio>
#include <exception>
#include <string>
#include <vector>

#include "session.h"

int main(int argc, char **argv) try {
    if (argc < 4) {
        fprintf(stderr, "usage: tensorrt_decode FOLDER COUNT ID...\n");
        return 2;
    }
    Session session(argv[1]);
    const int count = std::stoi(argv[2]);
    std::vector<int64_t> ids;
    for (int i = 3; i < argc; ++i) ids.push_back(std::stoll(argv[i]));
    for (int i = 0; i < count; ++i) {
        ids = {session.step(ids)};
        printf("%lld ", static_cast<long long>(ids[0]));
        fflush(stdout);
    }
    printf("\n");
    return 0;
} catch (const std::exception &error) {
    fprintf(stderr, "error: %s\n", error.what());
    return 1;
}
