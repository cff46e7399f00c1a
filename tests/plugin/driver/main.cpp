// Drives the plugin as TensorRT does. One command a line on stdin, one JSON object a line on stdout: what the command
// found and, in "log", what the plugin said meanwhile. tests/plugin/host.py writes the commands.
#include <iostream>

#include "world.h"

int main() {
    host::World world;
    auto commands = host::build_commands();
    for (auto &more : {host::run_commands(), host::abi_commands()}) commands.insert(more.begin(), more.end());
    std::string line;
    while (std::getline(std::cin, line)) {
        host::Answer answer;
        try {
            host::Words words(line);
            const std::string name = words.text();
            const auto found = commands.find(name);
            if (found == commands.end()) throw std::runtime_error("no command " + name);
            found->second(world, words, answer);
        } catch (const std::exception &error) {
            answer.add("failed", error.what());
        }
        answer.add("log", world.logger.take());
        std::cout << answer.json() << std::endl;
    }
}
