// Runs an exported .xml file on pictures with OpenVINO's C++ API: run_artifact MODEL.xml PICTURE.ppm...
//
// Labels, mean and std are read from the file itself. A picture is a binary PPM of the model's own size, which any tool
// makes (with Pillow: image.resize((w, h), Image.Resampling.BICUBIC).save("picture.ppm")). The build needs what
// CMakeLists.txt says; the wheel of OpenVINO holds the headers and libraries.
#include <openvino/openvino.hpp>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <fstream>
#include <iostream>
#include <numeric>
#include <stdexcept>
#include <string>
#include <vector>

// The elements of the JSON list "name": [...] in the card: texts without escapes, or numbers.
static std::vector<std::string> list_of(const std::string& card, const std::string& name) {
    const auto begin = card.find("\"" + name + "\": [");
    if (begin == std::string::npos) throw std::runtime_error("the card has no " + name);
    std::vector<std::string> found;
    std::string word;
    bool quoted = false;
    for (auto at = card.find('[', begin) + 1; at < card.size(); ++at) {
        const char one = card[at];
        if (one == '\\') throw std::runtime_error("this example reads no escaped texts; use a JSON library");
        if (one == '"') {
            quoted = !quoted;
        } else if (!quoted && (one == ',' || one == ']')) {
            found.push_back(word);
            word.clear();
            if (one == ']') return found;
        } else if (quoted || one != ' ') {
            word += one;
        }
    }
    throw std::runtime_error("the card is cut off");
}

// A binary PPM (P6, 8 bits) as planar floats (3, height, width), normalised.
static std::vector<float> read_picture(const std::string& path, size_t height, size_t width,
                                       const std::vector<std::string>& mean, const std::vector<std::string>& std_) {
    std::ifstream file(path, std::ios::binary);
    std::string kind;
    size_t columns = 0, rows = 0, most = 0;
    file >> kind >> columns >> rows >> most;
    file.get();
    if (kind != "P6" || most != 255 || columns != width || rows != height)
        throw std::runtime_error(path + " must be a binary PPM of " + std::to_string(width) + "x" +
                                 std::to_string(height) + " pixels with 8 bits");
    std::vector<std::uint8_t> bytes(3 * rows * columns);
    if (!file.read(reinterpret_cast<char*>(bytes.data()), static_cast<std::streamsize>(bytes.size())))
        throw std::runtime_error(path + " is cut off");
    std::vector<float> planes(bytes.size());
    for (size_t channel = 0; channel < 3; ++channel)
        for (size_t pixel = 0; pixel < rows * columns; ++pixel)
            planes[channel * rows * columns + pixel] =
                (bytes[3 * pixel + channel] / 255.0f - std::stof(mean[channel])) / std::stof(std_[channel]);
    return planes;
}

int main(int count, char** given) try {
    if (count < 3) throw std::runtime_error("run_artifact MODEL.xml PICTURE.ppm...");
    ov::Core core;
    const auto model = core.read_model(given[1]);
    const auto card = model->get_rt_info<std::string>("fgvc_kit");
    const auto classes = list_of(card, "classes"), mean = list_of(card, "mean"), std_ = list_of(card, "std");
    const auto size = list_of(card, "image_size");
    const size_t height = std::stoul(size.at(0)), width = std::stoul(size.at(1));
    // Without the hint OpenVINO computes in bf16 where the CPU can.
    auto request = core.compile_model(model, "CPU", ov::hint::inference_precision(ov::element::f32),
                                      ov::hint::performance_mode(ov::hint::PerformanceMode::LATENCY))
                       .create_infer_request();
    for (int place = 2; place < count; ++place) {
        auto planes = read_picture(given[place], height, width, mean, std_);
        request.set_input_tensor(ov::Tensor(ov::element::f32, {1, 3, height, width}, planes.data()));
        request.infer();
        const float* logits = request.get_output_tensor().data<float>();
        std::vector<size_t> order(classes.size());
        std::iota(order.begin(), order.end(), size_t{0});
        std::stable_sort(order.begin(), order.end(), [&](size_t a, size_t b) { return logits[a] > logits[b]; });
        double sum = 0;
        for (size_t i = 0; i < classes.size(); ++i) sum += std::exp(double(logits[i]) - logits[order[0]]);
        std::cout << given[place];
        for (size_t rank = 0; rank < std::min<size_t>(3, order.size()); ++rank)
            std::cout << "  " << classes[order[rank]] << " "
                      << 100 * std::exp(double(logits[order[rank]]) - logits[order[0]]) / sum << " %";
        std::cout << "\n";
    }
    return 0;
} catch (const std::exception& error) {
    std::cerr << error.what() << "\n";
    return 2;
}
